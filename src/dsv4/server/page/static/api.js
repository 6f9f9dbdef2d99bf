// The server's own API: models, streamed chat completions, and Markdown as HTML.

const KEY = "dsv4.key";

let typed = ""; // where the browser keeps nothing for this page

export const key = {
  get() {
    try {
      return sessionStorage.getItem(KEY) ?? "";
    } catch {
      return typed;
    }
  },
  set(value) {
    typed = value;
    try {
      sessionStorage.setItem(KEY, value);
    } catch {
      // it lives until the page is left
    }
  },
};

// Says in words what went wrong; `status` is HTTP's, 0 where nothing answered.
export class ApiError extends Error {
  constructor(message, status = 0) {
    super(message);
    this.status = status;
  }
}

async function call(path, body, signal) {
  const headers = {};
  if (body !== undefined) headers["Content-Type"] = "application/json";
  if (key.get()) headers.Authorization = `Bearer ${key.get()}`;
  const method = body === undefined ? "GET" : "POST";
  let response;
  try {
    response = await fetch(path, { method, headers, body: JSON.stringify(body), signal });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new ApiError("The server cannot be reached. Is dsv4 serve still running?");
  }
  if (!response.ok) throw await refusal(response);
  return response;
}

async function refusal(response) {
  let message = "";
  try {
    message = (await response.json()).error.message;
  } catch {
    message = response.statusText; // an answer that is not the API's, from something in between
  }
  if (response.status === 401) message = "The server asks for an API key: enter it in the settings.";
  if (response.status === 429) {
    const wait = response.headers.get("Retry-After");
    message = `The server is full: try again${wait ? ` in ${wait} s` : " in a moment"}.`;
  }
  return new ApiError(message || "The server gave no reason.", response.status);
}

// Names, and the effort of a request that says none (undefined where the server does not tell).
export async function listModels() {
  const { data } = await (await call("v1/models")).json();
  return { names: data.map((model) => String(model.id)), effort: data[0]?.dsv4?.effort };
}

export async function renderMarkdown(text) {
  return (await (await call("render", { text })).json()).html;
}

// The chunks of one reply. Ends after [DONE] or with the connection.
export async function* streamChat(body, signal) {
  const asked = { ...body, stream: true, stream_options: { include_usage: true } };
  const response = await call("v1/chat/completions", asked, signal);
  try {
    for await (const data of events(response.body)) {
      if (data === "[DONE]") return;
      const chunk = JSON.parse(data);
      if (chunk.error) throw new ApiError(chunk.error.message ?? "The server gave no reason.", 200);
      yield chunk;
    }
  } catch (error) {
    if (error instanceof ApiError || signal.aborted) throw error;
    throw new ApiError("The connection broke before the reply was whole.");
  }
}

// The data of server-sent events: lines of `data:` up to an empty line; other fields are not used here.
export async function* events(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  let data = [];
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const lines = (rest + value).split("\n");
      rest = lines.pop();
      for (const whole of lines) {
        const line = whole.endsWith("\r") ? whole.slice(0, -1) : whole;
        if (line.startsWith("data:")) data.push(line.slice(line[5] === " " ? 6 : 5));
        else if (line === "" && data.length) {
          yield data.join("\n");
          data = [];
        }
      }
    }
  } finally {
    reader.cancel().catch(() => {}); // a reply that is not read to its end is not generated to its end
  }
}
