// What onnxruntime-node or -web makes of inputs that benchmarks/other_runtimes.py wrote:
// node other_runtimes.cjs GRAPH FOLDER PACKAGE
// A file BATCH.NAME.TYPE.SHAPE holds one input's bytes; the embedding goes to BATCH.out.
const fs = require("fs");
const path = require("path");
const ort = require(process.argv[4]);

const ARRAYS = { uint8: Uint8Array, int64: BigInt64Array, float32: Float32Array };

function inputs(folder) {
  const batches = {};
  for (const file of fs.readdirSync(folder).sort()) {
    const [batch, name, type, shape] = file.split(".");
    if (shape === undefined) continue;
    const bytes = fs.readFileSync(path.join(folder, file));
    const values = new ARRAYS[type](bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length));
    batches[batch] = { ...batches[batch], [name]: new ort.Tensor(type, values, shape.split("x").map(Number)) };
  }
  return batches;
}

async function main(graph, folder) {
  if (ort.env.wasm) ort.env.wasm.numThreads = 1;
  const session = await ort.InferenceSession.create(fs.readFileSync(graph), { logSeverityLevel: 3 });
  for (const [batch, feeds] of Object.entries(inputs(folder))) {
    const { embedding } = await session.run(feeds);
    const { buffer, byteOffset, byteLength } = embedding.data;
    fs.writeFileSync(path.join(folder, `${batch}.out`), Buffer.from(buffer, byteOffset, byteLength));
  }
}

main(...process.argv.slice(2, 4)).catch((error) => {
  console.error(String(error));
  process.exit(1);
});
