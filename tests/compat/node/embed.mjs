// Prints what the openai SDK makes of a server's answers; tests/compat/test_openai_node.py reads it.
import OpenAI from "openai";

const model = "text-embedding-v4";
const input = "The quality of the clothes is excellent";
const client = new OpenAI({ apiKey: process.env.API_KEY, baseURL: process.env.BASE_URL, maxRetries: 0 });

async function refusal(call) {
  try {
    await call();
  } catch (error) {
    return { name: error.constructor.name, status: error.status, code: error.code };
  }
  return null;
}

const { data: first, response } = await client.embeddings.create({ model, input }).withResponse();
const asFloat = await client.embeddings.create({ model, input, encoding_format: "float" });
const several = await client.embeddings.create({ model, input: ["a", "b", "c"], dimensions: 256 });
const models = [];
for await (const entry of client.models.list()) models.push(entry.id);
const stranger = new OpenAI({ apiKey: "sk-wrong", baseURL: process.env.BASE_URL, maxRetries: 0 });

console.log(
  JSON.stringify({
    byDefault: first.data[0].embedding,
    asFloat: asFloat.data[0].embedding,
    lengths: several.data.map((row) => row.embedding.length),
    order: several.data.map((row) => row.index),
    usage: first.usage,
    id: first.id,
    requestId: response.headers.get("x-request-id"),
    models,
    rows: await refusal(() => client.embeddings.create({ model, input: Array(11).fill("x") })),
    model: await refusal(() => client.embeddings.create({ model: "no-such", input })),
    key: await refusal(() => stranger.embeddings.create({ model, input })),
  }),
);
