// Markdown as DOM nodes: what models write in chats, and nothing that could run or load.
//
// Nothing is ever parsed as HTML: all text goes into text nodes. Links lead to http, https and mailto only. Images are
// links, never loaded. Time is linear in the text's length, and depth, tables and length are bounded.
// Left out: HTML (shown as text; <br> alone breaks a line), reference links, footnotes, formulas.
import { text } from "./texts.js";

const MAX_CHARACTERS = 200_000, MAX_DEPTH = 10, MAX_ROWS = 200, MAX_COLUMNS = 40;
const FENCE = /^ {0,3}(`{3,}|~{3,})[ \t]*([^`\s]{0,40})/;
const HEADING = /^ {0,3}(#{1,6})[ \t]+(.*)$/;
const RULE = /^ {0,3}(?:(?:\*[ \t]*){3,}|(?:-[ \t]*){3,}|(?:_[ \t]*){3,})$/;
const QUOTE = /^ {0,3}> ?/;
const ITEM = /^( *)([-*+]|\d{1,9}[.)])([ \t]+|$)/;
const LINK = /!?\[([^[\]\n]{0,1000})\]\(\s{0,9}<?((?:[^\s<>()]|\([^\s<>()]{0,200}\)){1,2000})>?(?:\s{1,9}"[^"\n]{0,500}")?\s{0,9}\)/y;
const URL_TEXT = /https?:\/\/[^\s<>"'`，。；：！？、（）【】《》「」]{1,2000}/y;
const BREAK = /<br\s{0,9}\/?>/iy;
const ESCAPED = /[!-/:-@[-`{-~]/;
const STYLES = [["**", "strong"], ["__", "strong"], ["~~", "del"], ["*", "em"], ["_", "em"]];

export function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

/** Nodes of a text in Markdown. */
export function render(markdown) {
  if (markdown.length > MAX_CHARACTERS) return [make("p", { className: "plain", textContent: markdown })];
  return blocks(markdown.replace(/\r\n?/g, "\n").replace(/\t/g, "    ").split("\n"), 0);
}

// ---- blocks ----
function blocks(lines, depth) {
  const nodes = [];
  let paragraph = [];
  const endParagraph = () => {
    if (paragraph.length) nodes.push(make("p", {}, ...inlines(paragraph.join("\n"), 0)));
    paragraph = [];
  };
  for (let start = 0; start < lines.length;) {
    const block = depth > MAX_DEPTH ? null : blockAt(lines, start, depth, paragraph.length > 0);
    if (block) { endParagraph(); nodes.push(block.node); start = block.end; continue }
    if (lines[start].trim()) paragraph.push(lines[start].trim()); else endParagraph();
    start += 1;
  }
  endParagraph();
  return nodes;
}

function blockAt(lines, start, depth, inParagraph) { // the block that begins with a line, and the line after it; null for a paragraph
  const line = lines[start];
  if (!line.trim()) return null;
  let match;
  if ((match = FENCE.exec(line))) return fence(lines, start, match);
  if ((match = HEADING.exec(line))) return { node: make("h" + Math.min(6, match[1].length + 2), {}, ...inlines(match[2].replace(/ +#+ *$/, ""), 0)), end: start + 1 };
  if (RULE.test(line)) return { node: make("hr"), end: start + 1 };
  if (QUOTE.test(line)) return quote(lines, start, depth);
  if ((match = ITEM.exec(line)) && (match[3] || !inParagraph) && (match[1].length < 4 || !inParagraph)) return itemList(lines, start, depth);
  return line.includes("|") ? table(lines, start) : null;
}

function fence(lines, start, [, marks, language]) {
  let end = start + 1;
  const closes = (line) => line.trim().length >= marks.length && line.trim() === marks[0].repeat(line.trim().length);
  while (end < lines.length && !closes(lines[end])) end += 1; // while a reply grows, its last fence is open
  const indent = /^ */.exec(lines[start])[0].length;
  const code = lines.slice(start + 1, end).map((line) => line.startsWith(" ".repeat(indent)) ? line.slice(indent) : line.trimStart()).join("\n");
  const head = make("div", { className: "code-head" }, make("span", { textContent: language }));
  head.append(...copyButton("copy_code", () => code));
  const pre = make("pre", { tabIndex: 0 }, make("code", { textContent: code })); // focus: to scroll it with the keyboard
  pre.setAttribute("role", "region");
  pre.setAttribute("aria-label", language || "code");
  return { node: make("div", { className: "code" }, head, pre), end: end + 1 };
}

/** A button that copies content(); none where the page came by plain HTTP from another machine, and may not copy. */
export function copyButton(name, content) {
  if (!navigator.clipboard) return [];
  const button = make("button", { type: "button", textContent: text(name), onclick: async () => {
    await navigator.clipboard.writeText(content());
    button.textContent = text("copied");
    setTimeout(() => { button.textContent = text(name) }, 1500);
  } });
  return [button];
}

function quote(lines, start, depth) {
  let end = start;
  while (end < lines.length && lines[end].trim() && (QUOTE.test(lines[end]) || !startsBlock(lines[end]))) end += 1;
  return { node: make("blockquote", {}, ...blocks(lines.slice(start, end).map((line) => line.replace(QUOTE, "")), depth + 1)), end };
}

const startsBlock = (line) => FENCE.test(line) || HEADING.test(line) || RULE.test(line) || QUOTE.test(line) || ITEM.test(line);

function itemList(lines, start, depth) {
  const [, firstIndent, marker] = ITEM.exec(lines[start]), ordered = /\d/.test(marker);
  const list = make(ordered ? "ol" : "ul");
  if (ordered) list.start = parseInt(marker, 10);
  let end = start;
  while (end < lines.length) {
    const match = ITEM.exec(lines[end]);
    if (!match || RULE.test(lines[end]) || match[1].length > firstIndent.length + 1 || match[1].length < firstIndent.length || /\d/.test(match[2]) !== ordered) break;
    const next = endOfItem(lines, end, match[1].length);
    const width = match[0].length;
    const content = lines.slice(end, next).map((line, index) => index === 0 ? line.slice(width) : line.slice(Math.min(width, /^ */.exec(line)[0].length)));
    const nodes = blocks(content, depth + 1);
    list.append(make("li", {}, ...(nodes[0]?.tagName === "P" ? [...nodes[0].childNodes, ...nodes.slice(1)] : nodes)));
    end = next;
  }
  return { node: list, end };
}

function endOfItem(lines, start, indent) { // the first line that belongs to the item no more
  let end = start + 1, last = end, blank = false;
  for (; end < lines.length; end += 1) {
    if (!lines[end].trim()) { blank = true; continue }
    const isInside = /^ */.exec(lines[end])[0].length >= indent + 2;
    if (!isInside && (blank || startsBlock(lines[end]))) break;
    blank = false;
    last = end + 1;
  }
  const goesOn = end < lines.length && ITEM.test(lines[end]); // blank lines between the items of one list
  return goesOn ? end : last;
}

const cells = (line) => line.trim().replace(/^\||\|$/g, "").split(/(?<!\\)\|/).map((cell) => cell.trim().replaceAll("\\|", "|"));

function table(lines, start) {
  const columns = cells(lines[start]), rules = cells(lines[start + 1] ?? "");
  if (rules.length !== columns.length || !rules.every((rule) => /^:?-+:?$/.test(rule))) return null;
  let end = start + 2;
  while (end < lines.length && lines[end].includes("|")) end += 1;
  const row = (line, tag) => make("tr", {}, ...cells(line).slice(0, Math.min(columns.length, MAX_COLUMNS)).map((cell, index) => {
    const align = rules[index].endsWith(":") ? (rules[index].startsWith(":") ? "center" : "right") : "";
    return make(tag, { className: align }, ...inlines(cell, 0));
  }));
  const shown = lines.slice(start + 2, Math.min(end, start + 2 + MAX_ROWS)), left = end - start - 2 - shown.length;
  const element = make("table", {}, make("thead", {}, row(lines[start], "th")), make("tbody", {}, ...shown.map((line) => row(line, "td"))));
  const node = make("div", { className: "table", tabIndex: 0 }, element, ...(left ? [make("p", { className: "note", textContent: `+ ${left} ${text("rows_left_out")}` })] : []));
  node.setAttribute("role", "region");
  node.setAttribute("aria-label", cells(lines[start]).slice(0, 5).join(", "));
  return { node, end };
}

// ---- text ----
function inlines(source, depth, inLink = false) {
  const nodes = [], unclosed = new Set(); // marks that nothing closes in the rest of the text: searched for once
  let plain = "";
  const add = (node) => { if (plain) nodes.push(document.createTextNode(plain)); plain = ""; nodes.push(node) };
  for (let at = 0; at < source.length;) {
    const inline = depth < MAX_DEPTH && inlineAt(source, at, depth, inLink, unclosed);
    if (inline) { add(inline.node); at = inline.end; continue }
    if (source[at] === "\n") { add(make("br")); at += 1; continue }
    if (source[at] === "\\" && ESCAPED.test(source[at + 1] ?? "")) at += 1;
    const step = source[at] === "`" ? /^`+/.exec(source.slice(at, at + 100))[0].length : 1; // a run that closes nothing stays whole
    plain += source.slice(at, at + step);
    at += step;
  }
  if (plain) nodes.push(document.createTextNode(plain));
  return nodes;
}

const matchAt = (pattern, source, at) => { pattern.lastIndex = at; return pattern.exec(source) };

function inlineAt(source, at, depth, inLink, unclosed) {
  const character = source[at];
  if (character === "`") return codeSpan(source, at, unclosed);
  if (character === "<") { const match = matchAt(BREAK, source, at); return match && { node: make("br"), end: at + match[0].length } }
  if (character === "[" || character === "!") return inLink ? null : link(source, at, depth);
  if (character === "h" && !inLink) return bareUrl(source, at);
  return "*_~".includes(character) ? styled(source, at, depth, inLink, unclosed) : null;
}

function codeSpan(source, at, unclosed) {
  let end = at;
  while (source[end] === "`") end += 1;
  const marks = source.slice(at, end);
  if (unclosed.has(marks)) return null;
  for (let close = source.indexOf(marks, end); close >= 0;) {
    let after = close;
    while (source[after] === "`") after += 1;
    if (after - close === marks.length) {
      const code = source.slice(end, close).replaceAll("\n", " ");
      return { node: make("code", { textContent: code.replace(/^ (.*[^ ].*) $/, "$1") }), end: after };
    }
    close = source.indexOf(marks, after);
  }
  unclosed.add(marks);
  return null;
}

/** A link to an address that is safe to open; its text alone for any other, such as `javascript:`. */
export function safeLink(address, ...children) {
  let url = null;
  try { url = new URL(address) } catch { /* relative, or none */ }
  if (!url || !["http:", "https:", "mailto:"].includes(url.protocol)) return make("span", {}, ...children);
  return make("a", { href: url.href, target: "_blank", rel: "noopener noreferrer nofollow", referrerPolicy: "no-referrer" }, ...children);
}

function link(source, at, depth) {
  const match = matchAt(LINK, source, at);
  if (!match) return null;
  const isImage = source[at] === "!";
  return { node: safeLink(match[2], ...(isImage ? [`[${text("image")}: ${match[1] || match[2].slice(0, 100)}]`] : inlines(match[1], depth + 1, true))), end: at + match[0].length };
}

function bareUrl(source, at) {
  const match = matchAt(URL_TEXT, source, at);
  if (!match) return null;
  let address = match[0].replace(/[.,;:!?*_~\]}]+$/, "");
  if (address.endsWith(")") && !address.includes("(")) address = address.slice(0, -1);
  return { node: safeLink(address, address), end: at + address.length };
}

function styled(source, at, depth, inLink, unclosed) {
  const style = STYLES.find(([marks]) => source.startsWith(marks, at));
  if (!style) return null;
  const [marks, tag] = style, start = at + marks.length, isWord = (character) => /[\p{L}\p{N}]/u.test(character ?? "");
  if (unclosed.has(marks) || !source[start] || /\s/.test(source[start]) || (marks[0] === "_" && isWord(source[at - 1]))) return null;
  for (let close = source.indexOf(marks, start + 1); close >= 0; close = source.indexOf(marks, close + 1)) {
    if (/\s|\\/.test(source[close - 1])) continue;
    if (marks.length === 1 && (source[close + 1] === marks || source[close - 1] === marks) && source[start] !== marks) { close += 1; continue } // a part of **
    if (marks.length === 2 && source[close + 2] === marks[0]) close += 1; // ***both***: the outer marks close last
    if (marks[0] === "_" && isWord(source[close + marks.length])) continue;
    return { node: make(tag, {}, ...inlines(source.slice(start, close), depth + 1, inLink)), end: close + marks.length };
  }
  unclosed.add(marks);
  return null;
}
