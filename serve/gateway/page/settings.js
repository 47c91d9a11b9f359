// The dialog of settings: what is sampled and how, the system prompt, and the key.
import { currentKey, setKey } from "./api.js";
import { load, save } from "./storage.js";
import { text } from "./texts.js";

const DEFAULTS = { system: "", temperature: 0.7, top_p: 0.95, top_k: 0, repetition_penalty: 1.1, max_tokens: 256, seed: "" };
let settings = { ...DEFAULTS, ...load("settings", {}) };
const $ = (id) => document.getElementById(id);

/** Fields of a request for a reply. contextTokens: the model's context; 0 where it is unknown. */
export function sampling(contextTokens) {
  const { temperature, top_p, top_k, repetition_penalty, max_tokens, seed } = settings;
  return {
    temperature, top_p, repetition_penalty, max_tokens: Math.min(max_tokens, contextTokens ? Math.max(8, Math.floor(contextTokens / 2)) : Infinity),
    ...(top_k > 0 && { top_k }), ...(seed !== "" && { seed: Number(seed) }),
  };
}

export const systemPrompt = () => settings.system.trim();

/** Renders the values. about: {persona, context_tokens}, of the model that replies. */
export function render(about) {
  $("max_tokens").max = Math.max(16, Math.min(4096, Math.floor((about.context_tokens || 2048) / 2)));
  $("system").placeholder = about.persona ?? "";
  for (const name of Object.keys(DEFAULTS)) {
    $(name).value = settings[name];
    const output = document.querySelector(`output[for=${name}]`);
    if (output) output.textContent = name === "top_k" && settings[name] === 0 ? text("off") : $(name).value;
  }
  $("key").value = currentKey();
}

/** Wires the dialog. display(): calls render; onKey: called once the key was changed. */
export function connect(display, onKey) {
  const change = (changed) => { settings = { ...settings, ...changed }; save("settings", settings); display() };
  for (const name of Object.keys(DEFAULTS)) $(name).oninput = () => change({ [name]: $(name).type === "range" ? Number($(name).value) : $(name).value });
  $("key").onchange = () => { setKey($("key").value.trim()); onKey() };
  $("defaults").onclick = () => change(DEFAULTS);
  $("open_settings").onclick = () => { display(); $("dialog").showModal() };
}
