// The request in the form as code: Python with the client, curl, and grpcurl.
import { inputsOf, outputsOf } from "/ui/predict.js";

// Elements that a command's line has at most.
const MOST_ELEMENTS = 4096;
// Fields of the Open Inference Protocol's InferTensorContents.
const CONTENTS = {
  BOOL: "bool_contents", BYTES: "bytes_contents", FP32: "fp32_contents", FP64: "fp64_contents",
  INT8: "int_contents", INT16: "int_contents", INT32: "int_contents", INT64: "int64_contents",
  UINT8: "uint_contents", UINT16: "uint_contents", UINT32: "uint_contents", UINT64: "uint64_contents",
};
const WORDS = new Map([[true, "True"], [false, "False"], [null, "None"]]);
// Environment variable with the token, as the command line has it.
const TOKEN = "LAYERSERVE_TOKEN";

export async function copyAs(kind, form, token) {
  const inputs = await inputsOf(form);
  const request = { model: form.dataset.model, version: form.dataset.version, inputs, outputs: outputsOf(form) };
  const host = location.hostname;
  const server = { address: `${host}:${form.dataset.grpcPort}`, tls: location.protocol === "https:", token };
  return { python, curl, grpcurl }[kind](request, server);
}

function python({ model, version, inputs, outputs }, { address, tls, token }) {
  const imports = new Set(["from layerserve import Client"]);
  const lines = [];
  const given = inputs.map((one) => [one.name, array(one, imports, lines)]);
  const options = [];
  if (outputs.length) options.push(`outputs=${literal(outputs.length === 1 ? outputs[0] : outputs)}`);
  if (version) options.push(`version=${version}`);
  const all = given.length === 1 ? given[0][1] : `{${given.map(([name, code]) => `${literal(name)}: ${code}`).join(", ")}}`;
  const connection = [literal(address)];
  if (tls) connection.push("tls=True");
  if (token) connection.push(`token=os.environ["${TOKEN}"]`) && imports.add("import os");
  const head = [...imports].sort((a, b) => rank(a) - rank(b) || (a < b ? -1 : 1));
  return [
    ...head,
    "",
    ...lines,
    `with Client(${connection.join(", ")}) as client:`,
    `    print(client.predict(${[literal(model), all, ...options].join(", ")}))`,
    "",
  ].join("\n");
}

// The standard library first, then `import`, then `from`.
function rank(line) {
  return line === "import os" ? 0 : line.startsWith("import") ? 1 : 2;
}

function array(input, imports, lines) {
  // The client reads the file.
  if (input.encoded) return literal(input.file.name);
  if (input.file) {
    imports.add("import numpy as np").add("from PIL import Image");
    const [, height, width, channels] = input.lengths;
    const size = height > 0 && width > 0 ? `.resize((${width}, ${height}))` : "";
    const mode = { 1: "L", 3: "RGB", 4: "RGBA" }[channels];
    const scale = { "0,1": " / 255", "-1,1": " / 127.5 - 1" }[input.range.join()] ?? "";
    const axes = channels === 1 ? "[None, ..., None]" : "[None]";
    const pixels = `pixels${lines.length ? lines.length / 2 + 1 : ""}`;
    lines.push(`image = Image.open(${literal(input.file.name)}).convert("${mode}")${size}`);
    lines.push(`${pixels} = np.asarray(image, ${literal(input.dtype)})${axes}${scale}`);
    return pixels;
  }
  if (input.data) {
    imports.add("import numpy as np");
    const shape = `(${input.shape.join(", ")}${input.shape.length === 1 ? "," : ""})`;
    return input.type.startsWith("FP") ? `np.random.random(${shape})` : `np.zeros(${shape}, ${literal(input.dtype)})`;
  }
  return literal(input.value);
}

// JSON is Python but for three words.
function literal(value) {
  if (Array.isArray(value)) return `[${value.map(literal).join(", ")}]`;
  return WORDS.get(value) ?? JSON.stringify(value);
}

function elements(input) {
  if (input.encoded) throw new Error(`input '${input.name}': is a file; copy as Python`);
  const found = input.data ? [...input.data] : [input.value].flat(Infinity);
  if (found.length > MOST_ELEMENTS) {
    throw new Error(`input '${input.name}': got ${found.length} elements, expected at most ${MOST_ELEMENTS} in a command; copy as Python`);
  }
  // JSON has no whole numbers of 64 bits in JavaScript: those that were filled in are zeros.
  return found.map((one) => (typeof one === "bigint" ? Number(one) : one));
}

function curl({ model, version, inputs, outputs }, { token }) {
  const body = {
    inputs: inputs.map((one) => ({ name: one.name, datatype: one.type, shape: one.shape, data: elements(one) })),
    ...(outputs.length && { outputs: outputs.map((name) => ({ name })) }),
  };
  const path = `/v2/models/${encodeURIComponent(model)}${version ? `/versions/${version}` : ""}/infer`;
  const header = token ? ` -H "Authorization: Bearer $${TOKEN}"` : "";
  return `curl${header} ${location.origin}${path} -d ${quoted(body)}\n`;
}

function grpcurl({ model, version, inputs, outputs }, { address, tls, token }) {
  const body = {
    model_name: model,
    ...(version && { model_version: version }),
    inputs: inputs.map((one) => ({
      name: one.name,
      datatype: one.type,
      shape: one.shape,
      contents: { [CONTENTS[one.type]]: one.type === "BYTES" ? elements(one).map(base64) : elements(one) },
    })),
    ...(outputs.length && { outputs: outputs.map((name) => ({ name })) }),
  };
  const header = token ? ` -H "authorization: Bearer $${TOKEN}"` : "";
  const way = tls ? "" : " -plaintext";
  return `grpcurl${way}${header} -d ${quoted(body)} ${address} inference.GRPCInferenceService/ModelInfer\n`;
}

// For a POSIX shell.
function quoted(body) {
  return `'${JSON.stringify(body).replaceAll("'", "'\\''")}'`;
}

function base64(text) {
  return btoa(String.fromCharCode(...new TextEncoder().encode(text)));
}
