// Predicts a row with the model "dense". Argument: the server's address.
import { createClient } from "@connectrpc/connect";
import { createGrpcTransport } from "@connectrpc/connect-node";
import { PredictionService } from "./gen/layerserve/v1/prediction_pb.js";
import { DataType } from "./gen/layerserve/v1/tensor_pb.js";

const client = createClient(PredictionService, createGrpcTransport({ baseUrl: `http://${process.argv[2]}` }));
const row = new Float32Array(64).fill(0.5); // little-endian on all common processors, as the contract's data
const reply = await client.predict({
  model: { name: "dense" },
  inputs: [{ dtype: DataType.FLOAT32, shape: [1n, 64n], data: new Uint8Array(row.buffer) }],
});
const { name, shape, data } = reply.outputs[0];
console.log(name, shape.join(), ...new Float32Array(data.slice().buffer));
