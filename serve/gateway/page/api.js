// Requests to the server that the page came from, with the key of this tab.
import { loadOfTab, saveOfTab } from "./storage.js";

let key = loadOfTab("key", "");
export const currentKey = () => key;
export function setKey(value) { key = value; saveOfTab("key", value) }

const headers = () => ({ "content-type": "application/json", ...(key && { authorization: "Bearer " + key }) });

/** The JSON of a route with its status; status 0 where the server cannot be reached. */
export async function read(route) {
  try {
    const response = await fetch(route, { headers: headers() });
    return { status: response.status, value: await response.json() };
  } catch { return { status: 0, value: {} } }
}

/** Sends a request for a reply, and calls onChunk with each chunk of it. Throws an Error whose message is the server's,
 *  or a name in texts.js; returns the number of turns that the server left out of the prompt. */
export async function generate(body, signal, onChunk) {
  let finished = false;
  const response = await fetch("v1/chat/completions", { method: "POST", headers: headers(), body: JSON.stringify(body), signal });
  if (!response.ok) throw new Error(response.status === 401 ? "key_needed" : await errorOf(response));
  for await (const chunk of chunksOf(response)) {
    if (chunk.error) throw new Error(chunk.error.message);
    finished ||= Boolean(chunk.choices?.[0]?.finish_reason);
    onChunk(chunk);
  }
  if (!finished) throw new Error("incomplete");
  return Number(response.headers.get("x-rayse-turns-left-out") ?? 0);
}

/** Whether an error of generate() means that the connection was lost, before or in the middle of a reply. */
export const isLost = (error) => error instanceof TypeError || error.message === "incomplete";

async function* chunksOf(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  for (let rest = "";;) {
    const { done, value } = await reader.read();
    if (done) return;
    const events = (rest + value).split("\n\n");
    rest = events.pop();
    for (const event of events) if (event.startsWith("data: ") && event !== "data: [DONE]") yield JSON.parse(event.slice(6));
  }
}

const errorOf = async (response) => (await response.json().catch(() => null))?.error?.message ?? "HTTP " + response.status;

/** Stores feedback on a reply. With a receipt it works on any server of the store, also after a restart.
 *  Returns an empty text, or why it was not stored. */
export async function sendFeedback(message, prompt) {
  const reply = message.receipt ? { receipt: message.receipt, prompt, reply: message.content } : { reply_id: message.replyId };
  const further = { ...(message.correction && { correction: message.correction }), ...(message.report && { report: message.report }) };
  try {
    let response = await post({ ...reply, ...further, thumb: message.thumb, comment: message.comment ?? "" });
    if (response.status === 400 && message.receipt) // an earlier message was edited since: its digest in the receipt is all there is
      response = await post({ receipt: message.receipt, ...further, thumb: message.thumb, comment: message.comment ?? "" });
    return response.ok ? "" : await errorOf(response);
  } catch { return "connection_lost" }
}

const post = (body) => fetch("feedback", { method: "POST", headers: headers(), body: JSON.stringify(body) });
