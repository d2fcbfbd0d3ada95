/** The public API of the server that this page came from, and the key to it. */

const ROOT = new URL("../", document.baseURI); // the server, also when a proxy puts it under a prefix
const SLOT = "embedserve.key";
const ROW = "x-embedserve-row"; // of a refusal: the number of the text at fault, from 0

export const NATIVE_PATH = "api/v1/services/embeddings/text-embedding/text-embedding";

export const address = (path) => new URL(path, ROOT).href;

/** The caller's key lives in this tab's session storage and nowhere else. */
export const key = {
  get: () => sessionStorage.getItem(SLOT) ?? "",
  set: (value) => sessionStorage.setItem(SLOT, value),
  forget: () => sessionStorage.removeItem(SLOT),
};

/** A refusal as the server worded it; `body` is the reply as it came, `row` the text at fault where it is one. */
export class ApiError extends Error {
  constructor(status, code, message, requestId, body, row = null) {
    super(message);
    Object.assign(this, { status, code, requestId, body, row });
  }
}

async function ask(path, init = {}) {
  let response;
  try {
    response = await fetch(address(path), { cache: "no-store", credentials: "omit", ...init });
  } catch (error) {
    throw new ApiError(0, "no connection", `${address(path)} does not answer (${error.message}).`, "", "");
  }
  return { response, text: await response.text() };
}

function parse(text) {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

/** A reply in JSON, or the ApiError in either dialect's shape. */
async function askJson(path, init = {}) {
  const { response, text } = await ask(path, {
    ...init,
    headers: { authorization: `Bearer ${key.get()}`, ...init.headers },
  });
  const body = parse(text);
  if (!response.ok || body === undefined) {
    const told = body?.error ?? body ?? {};
    throw new ApiError(
      response.status,
      told.code ?? response.statusText,
      told.message ?? text.slice(0, 500),
      body?.request_id ?? response.headers.get("x-request-id") ?? "",
      text,
      response.headers.has(ROW) ? Number(response.headers.get(ROW)) : null,
    );
  }
  return { body, text };
}

/** Models that give sparse vectors, as the server describes them: [{id, embedserve: {…}}]. */
export async function sparseModels() {
  const { body } = await askJson("compatible-mode/v1/models");
  return body.data.filter((model) => model.embedserve?.sparse);
}

/** One native request; the reply parsed and as it came. */
export function embed(body) {
  return askJson(NATIVE_PATH, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(body),
  });
}

export async function readiness() {
  const { text } = await ask("ready");
  return parse(text) ?? { status: "not ready" };
}

/** Prometheus samples: [{name, labels: {…}, value}]. */
export async function metrics() {
  const { response, text } = await ask("metrics");
  if (!response.ok) return [];
  const samples = [];
  for (const line of text.split("\n")) {
    const found = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)/.exec(line);
    if (!found) continue;
    const labels = Object.fromEntries(
      [...(found[2] ?? "").matchAll(/(\w+)="((?:[^"\\]|\\.)*)"/g)].map(([, name, value]) => [name, value]),
    );
    samples.push({ name: found[1], labels, value: Number(found[3]) });
  }
  return samples;
}
