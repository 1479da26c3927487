// Requests to the server: the token, errors, and streams of events.

const KEY = "triform.token";

/** An error as the server words it. requestId: what its log calls the request. */
export class ServerError extends Error {
  constructor(message, { status = 0, requestId = "" } = {}) {
    super(message);
    this.status = status;
    this.requestId = requestId;
  }
}

/** Return the token that the user gave in this tab, or null. */
export function token() {
  return sessionStorage.getItem(KEY);
}

/** Keep a token until the tab is closed. */
export function keepToken(value) {
  sessionStorage.setItem(KEY, value);
}

let ask = null;

/** Set who asks the user for a token: ask(message) resolves to whether one was given. */
export function onTokenNeeded(asker) {
  ask = asker;
}

/**
 * Send a request, and return the response, which is a success. json: the body as an object; form: a
 * FormData. Throws `ServerError`.
 */
export async function send(path, { json, form, signal } = {}) {
  for (;;) {
    const headers = {};
    const given = token();
    if (given) headers.Authorization = `Bearer ${given}`;
    if (json !== undefined) headers["Content-Type"] = "application/json";
    const body = json !== undefined ? JSON.stringify(json) : form;
    const method = body === undefined ? "GET" : "POST";
    let response;
    try {
      response = await fetch(path, { method, headers, body, signal, credentials: "omit" });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new ServerError("the server does not answer");
    }
    if (response.ok) return response;
    const error = await errorOf(response);
    if (response.status !== 401 || ask === null) throw error;
    const isChanged = token() !== given; // Another request has asked for it meanwhile.
    if (!isChanged && !(await ask(error.message))) throw error;
  }
}

/** Send a request, and return the JSON of the answer. */
export async function sendForJson(path, options) {
  const response = await send(path, options);
  return received(response.json());
}

/** Wait for what a connection brings. Throws `ServerError` if it ends before. */
async function received(part) {
  try {
    return await part;
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServerError("the answer broke off");
  }
}

async function errorOf(response) {
  const details = { status: response.status, requestId: response.headers.get("x-request-id") };
  try {
    const { error } = await response.json();
    return new ServerError(error.message, details);
  } catch {
    return new ServerError(`the server answered with status ${response.status}`, details);
  }
}

/**
 * Yield the JSON of each event of a stream. Throws `ServerError` for an error event, and for a
 * stream that ends before `[DONE]`.
 */
export async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  try {
    yield* parsed(reader);
  } finally {
    reader.cancel().catch(() => {}); // A stream that has failed can't be cancelled.
  }
}

async function* parsed(reader) {
  let rest = "";
  for (;;) {
    const { value, done } = await received(reader.read());
    if (done) throw new ServerError("the answer broke off");
    rest += value;
    const parts = rest.split("\n\n");
    rest = parts.pop();
    for (const part of parts) {
      const data = part.replace(/^data: /, "");
      if (data === "[DONE]") return;
      const content = JSON.parse(data);
      if (content.error) {
        const { message, request_id: requestId } = content.error;
        throw new ServerError(message, { requestId });
      }
      yield content;
    }
  }
}
