// Talks to the server that the page came from, by addresses relative to the page's own.

const KEY = "castserve-key";

export class ServerError extends Error {
  constructor(message, status = 0) {
    super(message);
    this.status = status;
  }
}

export function isKeyWanted(error) {
  return error.status === 401 || error.status === 403;
}

/** The API key, kept for this tab at most. */
export class KeyRing {
  constructor() {
    this.key = "";
    try {
      this.key = sessionStorage.getItem(KEY) ?? "";
    } catch { /* storage is switched off: the key lives as long as the page */ }
  }

  keep(key) {
    this.key = key.trim();
    try {
      sessionStorage.setItem(KEY, this.key);
    } catch { /* as above */ }
  }

  headers() {
    return this.key ? { Authorization: `Bearer ${this.key}` } : {};
  }
}

export async function getStatus(ring) {
  const answer = await asked("v1/status", { headers: ring.headers() });
  return answer.json();
}

/** The chunks of a streamed answer. Raises `ServerError`, or an AbortError after `signal`. */
export async function* streamChat(ring, body, signal) {
  const answer = await asked("v1/chat/completions", {
    method: "POST",
    headers: { "Content-Type": "application/json", ...ring.headers() },
    body: JSON.stringify({ ...body, stream: true }),
    signal,
  });
  let isDone = false;
  for await (const data of events(answer.body)) {
    if (data === "[DONE]") {
      isDone = true;
      break;
    }
    const chunk = JSON.parse(data);
    if (chunk.error) throw new ServerError(chunk.error.message);
    yield chunk;
  }
  if (!isDone) throw new ServerError("The server broke off in the middle of the answer.");
}

async function asked(path, options) {
  let answer;
  try {
    answer = await fetch(new URL(path, document.baseURI), options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServerError("The server cannot be reached. Is it still running?");
  }
  if (!answer.ok) throw await refusal(answer);
  return answer;
}

async function refusal(answer) {
  let message = "";
  try {
    message = (await answer.json()).error.message;
  } catch { /* not one of this server's own answers */ }
  if (isKeyWanted(answer)) {
    return new ServerError(
      "This server wants an API key. Enter yours under Settings, then send again.", answer.status,
    );
  }
  if (answer.status === 429 || answer.status === 503) {
    const after = answer.headers.get("Retry-After");
    const when = after ? `in ${after} s` : "in a moment";
    message = `The server has too much to do. ${message} Try again ${when}.`;
  }
  return new ServerError(message || `The server answered with status ${answer.status}.`, answer.status);
}

async function* events(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    while (true) {
      let part;
      try {
        part = await reader.read();
      } catch (error) {
        if (error.name === "AbortError") throw error;
        throw new ServerError("The connection to the server broke off.");
      }
      if (part.done) return;
      const pieces = (rest + part.value).split("\n\n");
      rest = pieces.pop();
      for (const piece of pieces) {
        if (piece.startsWith("data: ")) yield piece.slice("data: ".length);
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
