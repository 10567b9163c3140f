// The body of a prediction, from the form: JSON of the Open Inference Protocol, with images in binary after it.
const JSON_LENGTH = "inference-header-content-length";
// Types that JSON has no numbers for are sent as a wider one.
const SENT_AS = { FP16: "FP32", BF16: "FP32" };
const ARRAYS = {
  FP32: Float32Array, FP64: Float64Array, UINT8: Uint8Array, UINT16: Uint16Array, UINT32: Uint32Array,
  INT8: Int8Array, INT16: Int16Array, INT32: Int32Array, UINT64: BigUint64Array, INT64: BigInt64Array,
};
// Pixels that a browser is asked to scale an image to, along an axis that may have any length.
const MOST_PIXELS = 1024;
// Length of such an axis in a row that is filled in, and the number of elements of the largest one.
const ANY_LENGTH = 4;
const MOST_ELEMENTS = 1 << 24;

// The inputs in the form, each with its name, type and shape, and either `value`, nested lists, or `data`, an array that was
// filled in or drawn. Also says what it was drawn from: `file` and `range`.
export async function inputsOf(form) {
  const inputs = [];
  for (const field of form.querySelectorAll("[data-input]")) {
    const { input: name, datatype, dtype, shape } = field.dataset;
    const lengths = shape.split(",").map(Number);
    const type = SENT_AS[datatype] ?? datatype;
    const file = field.querySelector("input[type=file]")?.files[0];
    const text = field.querySelector("textarea").value;
    if (file && "encoded" in field.dataset) {
      inputs.push({ name, type, dtype, file, encoded: true, shape: [1], data: await elementOf(file) });
    } else if (file) {
      const range = field.querySelector("select").value.split(",").map(Number);
      inputs.push({ name, type, dtype, file, range, lengths, ...(await pixelsOf(file, lengths, range, type)) });
    } else if (type !== "BYTES" && !text.trim()) {
      inputs.push({ name, type, dtype, ...anyRow(name, lengths, type) });
    } else {
      const value = type === "BYTES" ? textOf(text, lengths.length) : numbersOf(text, name, lengths.length);
      inputs.push({ name, type, dtype, shape: shapeOf(value), value });
    }
  }
  return inputs;
}

export function outputsOf(form) {
  return form.querySelector("#outputs").value.split("\n").map((one) => one.trim()).filter(Boolean);
}

export async function bodyOf(form) {
  const blobs = [];
  const inputs = (await inputsOf(form)).map(({ name, type: datatype, shape, value, data }) => {
    if (!data) return { name, datatype, shape, data: [value].flat(Infinity) };
    blobs.push(data);
    return { name, datatype, shape, parameters: { binary_data_size: data.byteLength } };
  });
  const request = { inputs, parameters: { binary_data_output: true } };
  const named = outputsOf(form);
  if (named.length) request.outputs = named.map((name) => ({ name }));
  const head = new TextEncoder().encode(JSON.stringify(request));
  return { body: new Blob([head, ...blobs]), headers: { [JSON_LENGTH]: String(head.length) } };
}

function anyRow(name, lengths, type) {
  const shape = lengths.map((length, axis) => (length >= 0 ? length : axis === 0 ? 1 : ANY_LENGTH));
  const count = shape.reduce((product, length) => product * length, 1);
  if (count > MOST_ELEMENTS) throw new Error(`input '${name}': is too large to be filled in`);
  const data = new (ARRAYS[type] ?? Uint8Array)(count);
  return { shape, data: type.startsWith("FP") ? data.map(() => Math.random()) : data };
}

function shapeOf(value) {
  const shape = [];
  for (let one = value; Array.isArray(one); one = one[0]) shape.push(one.length);
  return shape;
}

function textOf(text, rank) {
  if (text.trimStart().startsWith("[")) return JSON.parse(text);
  const lines = text.split("\n").filter((line, at, all) => line || at < all.length - 1);
  return rank > 1 ? lines.map((line) => [line]) : lines;
}

function numbersOf(text, name, rank) {
  const given = text.trim();
  if (given.startsWith("[")) {
    try {
      return JSON.parse(given);
    } catch (error) {
      throw new Error(`input '${name}': isn't JSON: ${error.message}`);
    }
  }
  const word = (one) => {
    if (one === "true" || one === "false") return one === "true";
    const value = Number(one);
    if (one === "" || Number.isNaN(value)) throw new Error(`input '${name}': got '${one}', expected a number`);
    return value;
  };
  const rows = given.split("\n").map((line) => line.trim().split(/[\s,;]+/).map(word));
  return rank > 1 ? rows : rows.flat();
}

// A file as an element of BYTES in binary: its length in 4 bytes, and its content.
async function elementOf(file) {
  const content = new Uint8Array(await file.arrayBuffer());
  const element = new Uint8Array(4 + content.length);
  new DataView(element.buffer).setUint32(0, content.length, true);
  element.set(content, 4);
  return element;
}

async function drawn(file, height, width) {
  let image;
  try {
    image = await createImageBitmap(file);
  } catch {
    throw new Error(`file '${file.name}': the browser can't read it as an image`);
  }
  const fit = Math.min(1, MOST_PIXELS / Math.max(image.width, image.height));
  const canvas = document.createElement("canvas");
  canvas.width = width > 0 ? width : Math.max(1, Math.round(image.width * fit));
  canvas.height = height > 0 ? height : Math.max(1, Math.round(image.height * fit));
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(image, 0, 0, canvas.width, canvas.height);
  return { canvas, context };
}

async function pixelsOf(file, [, height, width, channels], [low, high], type) {
  const { canvas, context } = await drawn(file, height, width);
  const pixels = context.getImageData(0, 0, canvas.width, canvas.height).data;
  const data = new ARRAYS[type](canvas.width * canvas.height * channels);
  const whole = !type.startsWith("FP");
  const big = type.endsWith("64") && whole;
  for (let at = 0; at < canvas.width * canvas.height; at++) {
    const [red, green, blue, alpha] = pixels.subarray(4 * at, 4 * at + 4);
    const values = channels === 1 ? [0.299 * red + 0.587 * green + 0.114 * blue] : [red, green, blue, alpha];
    for (let channel = 0; channel < channels; channel++) {
      const value = low + (values[channel] / 255) * (high - low);
      data[at * channels + channel] = big ? BigInt(Math.round(value)) : whole ? Math.round(value) : value;
    }
  }
  return { shape: [1, canvas.height, canvas.width, channels], data };
}

export async function previewImage(input) {
  const shown = input.closest(".drop").querySelector("canvas");
  const [, height, width] = input.closest("[data-input]").dataset.shape.split(",").map(Number);
  shown.hidden = !input.files[0];
  if (shown.hidden) return;
  try {
    const { canvas } = await drawn(input.files[0], height, width);
    [shown.width, shown.height] = [canvas.width, canvas.height];
    shown.getContext("2d").drawImage(canvas, 0, 0);
  } catch {
    shown.hidden = true;
  }
}

export function dropImage(event) {
  if (!event.dataTransfer.types.includes("Files")) return;
  const drop = event.target.closest?.(".drop");
  // Elsewhere the browser would leave the page for the file.
  event.preventDefault();
  if (!drop) return;
  drop.classList.toggle("over", event.type === "dragover");
  if (event.type !== "drop" || !event.dataTransfer.files.length) return;
  const input = drop.querySelector("input[type=file]");
  input.files = event.dataTransfer.files;
  previewImage(input);
}
