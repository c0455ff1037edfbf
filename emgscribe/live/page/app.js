// The page of `emgscribe live`. It draws what the server sends (docs/live.md has the messages) and asks for choices.
import { open } from "./source.js";

const SECONDS = 4; // of signal that the scope shows
const SHOWN_KEYS = 2000; // keystrokes that are kept
const FADING = 0.7; // of a key's light, left after an update: a key press lasts one or two of them, too short to be seen
const KEYS_AT_ONCE = 30; // of what is typed, in a message
const ROWS = ["`1234567890-=⌫", "qwertyuiop[]\\", "asdfghjkl;'⏎", "⇧zxcvbnm,./"];
const SHIFTED = { "~": "`", "!": "1", "@": "2", "#": "3", $: "4", "%": "5", "^": "6", "&": "7", "*": "8", "(": "9", ")": "0", _: "-",
  "+": "=", "{": "[", "}": "]", "|": "\\", ":": ";", '"': "'", "<": ",", ">": ".", "?": "/" };
const byId = (id) => document.getElementById(id);

/** What a screen shows after keystrokes: backspaces applied, shift dropped. */
export function screenOf(keys) {
  const shown = [];
  for (const key of keys) {
    if (key === "⌫") shown.pop();
    else if (key !== "⇧") shown.push(key === "⏎" ? "\n" : key);
  }
  return shown.join("");
}

// Text ----------------------------------------------------------------------------------------------------------------

const text = { committed: [], tentative: [] };

function showText() {
  const committed = screenOf(text.committed);
  const all = screenOf([...text.committed, ...text.tentative]);
  let same = 0; // tentative backspaces may take back committed text
  while (same < committed.length && committed[same] === all[same]) same += 1;
  const lines = all.split("\n");
  const first = all.length - lines.slice(-3).join("\n").length;
  byId("committed").textContent = all.slice(Math.min(first, same), same);
  byId("tentative").textContent = all.slice(Math.max(first, same));
  byId("text").scrollTop = byId("text").scrollHeight;
}

function commit(keys) {
  text.committed = [...text.committed, ...keys].slice(-SHOWN_KEYS);
  if (!keys.some((key) => key === " " || key === "⏎")) return;
  const words = screenOf(text.committed).split(/\s+/).filter(Boolean); // a screen reader hears each word once
  byId("spoken").textContent = words.at(-1) ?? "";
}

function showScored([typed, read, marks]) {
  const item = document.createElement("li");
  for (const [name, line] of [["typed", typed], ["read", read]]) {
    const row = item.appendChild(document.createElement("div"));
    row.className = name;
    for (let at = 0; at < line.length; ) {
      const wrong = marks[at] !== " ";
      let end = at;
      while (end < line.length && (marks[end] !== " ") === wrong) end += 1;
      const part = document.createElement(wrong ? "mark" : "span");
      part.textContent = line.slice(at, end);
      row.append(part);
      at = end;
    }
  }
  const list = byId("scored");
  list.append(item);
  while (list.children.length > 3) list.firstChild.remove();
  byId("truth").hidden = false;
}

// Keyboard ------------------------------------------------------------------------------------------------------------

const keys = new Map();

function makeKeyboard() {
  const board = byId("keyboard");
  for (const row of [...ROWS.map((row) => [...row]), [" "]]) {
    const line = board.appendChild(document.createElement("div"));
    line.className = "row";
    for (const name of row) {
      const key = line.appendChild(document.createElement("div"));
      key.className = "key" + ("⌫⏎⇧".includes(name) ? " wide" : name === " " ? " space" : "");
      key.appendChild(document.createElement("b")).textContent = name === " " ? "space" : name;
      keys.set(name, key);
    }
  }
}

function light(likely) {
  const found = new Map();
  for (const [symbol, p] of likely) {
    const name = SHIFTED[symbol] ?? symbol.toLowerCase();
    found.set(name, Math.max(found.get(name) ?? 0, p));
  }
  for (const [name, key] of keys) {
    const before = Number(key.style.getPropertyValue("--p"));
    key.style.setProperty("--p", Math.max(found.get(name) ?? 0, before > 0.02 ? FADING * before : 0).toFixed(3));
  }
}

// Scope ---------------------------------------------------------------------------------------------------------------

const scope = { canvas: byId("scope"), waiting: [], rows: 32, bands: 2, unit: 0.25, loud: 50 };

function startScope(ready) {
  scope.rows = ready.bands.length * ready.electrodes;
  scope.bands = ready.bands.length;
  scope.names = ready.bands;
  scope.unit = ready.unit;
  scope.canvas.width = Math.round(SECONDS / ready.column);
  scope.canvas.height = 16 * scope.rows;
  scope.waiting = [];
  scope.pen = scope.canvas.getContext("2d");
}

function receiveColumns(buffer) {
  const head = new DataView(buffer);
  if (head.getUint32(0, true) !== 1) return;
  const numbers = new Int16Array(buffer, 8);
  const size = 2 * scope.rows;
  for (let at = 0; at + size <= numbers.length; at += size) scope.waiting.push(numbers.subarray(at, at + size));
  if (scope.waiting.length > scope.canvas.width) scope.waiting.splice(0, scope.waiting.length - scope.canvas.width);
}

function drawScope() {
  requestAnimationFrame(drawScope);
  const { pen, canvas, rows, bands } = scope;
  const waiting = scope.waiting.splice(0, Math.ceil(scope.waiting.length / 3)); // they come in pieces: flow, do not jump
  const count = waiting.length;
  if (!pen || !count) return;
  const { width, height } = canvas;
  const style = getComputedStyle(document.documentElement);
  const colours = ["--left", "--right"].map((name) => style.getPropertyValue(name));
  const tall = height / rows;
  pen.globalCompositeOperation = "copy"; // move what is there to the left
  pen.drawImage(canvas, -count, 0);
  pen.globalCompositeOperation = "source-over";
  let loudest = 0;
  for (const column of waiting) for (const value of column) loudest = Math.max(loudest, Math.abs(value));
  scope.loud += (loudest * scope.unit > scope.loud ? 0.2 : 0.004) * (loudest * scope.unit - scope.loud);
  const gain = (0.9 * tall * scope.unit) / Math.max(scope.loud, 5);
  for (let row = 0; row < rows; row += 1) {
    const middle = (row + 0.5) * tall;
    pen.fillStyle = colours[bands === 2 ? Math.floor((2 * row) / rows) : 0];
    waiting.forEach((column, place) => {
      const top = middle - gain * column[2 * row + 1];
      const bottom = middle - gain * column[2 * row];
      pen.fillRect(width - count + place, top, 1, Math.max(1, bottom - top));
    });
  }
  byId("scale").textContent = `${SECONDS} s, rows ${(scope.loud / 0.9).toFixed(0)} µV apart`;
}

// Statistics ----------------------------------------------------------------------------------------------------------

const milliseconds = (times) => (times.length ? times.map((time) => Math.round(1000 * time)).join(" / ") : "–");

function showStats(stats) {
  byId("wpm").textContent = stats.words_per_minute.toFixed(0);
  byId("cer").textContent = stats.cer === null ? "–" : `${stats.cer.toFixed(1)} % of ${stats.characters}`;
  byId("shown").textContent = milliseconds(stats.shown);
  byId("committed-after").textContent = milliseconds(stats.committed);
  byId("computing").textContent = milliseconds(stats.computing);
  byId("waiting").textContent = `${Math.round(1000 * stats.waiting)} ms, ${stats.late}`;
  const missing = stats.missing + stats.stalled + stats.not_finite + stats.dropped;
  byId("faults").textContent = `${missing}, ${stats.jumps}, ${stats.reconnected}`;
  document.body.classList.toggle("late", stats.late > 0);
  document.body.classList.toggle("faulty", missing + stats.jumps + stats.reconnected > 0);
  if (document.body.classList.contains("running")) {
    byId("state").textContent = stats.quiet > 1.5 ? `no samples for ${Math.round(stats.quiet)} s` : "running";
  }
}

// Recording -----------------------------------------------------------------------------------------------------------

const KEYS = { Backspace: "⌫", Enter: "⏎", Shift: "⇧" }; // in addition to those whose name is a character
const clock = { heard: [] }; // [round trip, offset], in seconds, of the latest answers
const typing = { held: new Map(), waiting: [], shown: [], prompts: 0 };

/** Adding this to performance.now() / 1000 gives the server's time, to within `error` seconds. */
function serverClock() {
  const [trip, offset] = clock.heard.reduce((best, one) => (one[0] < best[0] ? one : best));
  return { offset, error: trip / 2 };
}

function hearPong({ sent, now }) {
  const trip = (performance.now() - Number(sent)) / 1000;
  clock.heard = [...clock.heard, [trip, now - Number(sent) / 1000 - trip / 2]].slice(-20);
}

function ping() {
  send({ type: "ping", sent: String(performance.now()) });
}

function press(event) {
  const shortcut = event.metaKey || ((event.ctrlKey || event.altKey) && !event.getModifierState("AltGraph"));
  if (shortcut || event.key === "Tab") return;
  if (!(event.key in KEYS) && [...event.key].length !== 1) return;
  event.preventDefault();
  if (event.repeat) return;
  typing.held.set(event.code, [event.key, event.timeStamp]);
  typing.shown.push(KEYS[event.key] ?? event.key);
  showTyping();
}

function release(event) {
  const held = typing.held.get(event.code);
  if (!held) return;
  typing.held.delete(event.code);
  typing.waiting.push([...held, event.timeStamp]);
  if (event.key === "Enter") sendKeys();
}

/** Keys that are released elsewhere, as after Alt+Tab, end here: nothing says when they go up. */
function releaseAll(event) {
  for (const held of typing.held.values()) typing.waiting.push([...held, event.timeStamp]);
  typing.held.clear();
  sendKeys();
}

/** Keys wait until the server is connected and its clock is known. */
function sendKeys() {
  if (!typing.waiting.length || !clock.heard.length) return;
  const { offset, error } = serverClock();
  const some = typing.waiting.slice(0, KEYS_AT_ONCE);
  const keys = some.map(([name, down, up]) => [name, down / 1000 + offset, up / 1000 + offset]);
  if (send({ type: "keys", keys, error })) typing.waiting.splice(0, some.length);
}

function showTyping() {
  const shown = screenOf(typing.shown);
  const prompt = byId("prompt").textContent;
  byId("typing").replaceChildren(
    ...[...shown].map((key, at) => {
      const part = document.createElement(key === prompt[at] ? "span" : "mark");
      part.textContent = key;
      return part;
    }),
  );
}

function showRecording(now) {
  byId("recording").hidden = !now.possible;
  byId("record").textContent = now.on ? "Stop" : "Record";
  byId("record").setAttribute("aria-pressed", now.on);
  byId("adapt").disabled = now.on || now.adapting || !now.adaptable;
  byId("adapt").hidden = !now.adaptable && !now.adapting;
  const asked = now.on && now.asks;
  if (asked && (byId("prompt").textContent !== now.prompt || typing.prompts !== now.prompts)) {
    byId("prompt").textContent = now.prompt;
    typing.prompts = now.prompts;
    typing.shown = [];
    showTyping();
  }
  if (asked && byId("prompting").hidden) setTimeout(() => byId("typing").focus());
  byId("prompting").hidden = !asked;
  document.body.classList.toggle("prompting", asked);
  const minutes = `${Math.floor(now.seconds / 60)}:${String(Math.floor(now.seconds % 60)).padStart(2, "0")}`;
  const kept = now.files.length ? `saved: ${now.files.at(-1)}` : "";
  byId("recorded").textContent = now.on ? `${minutes}, keys: ${now.keys}${asked ? "" : " (of the simulated typist)"}` : kept;
}

function showElectrodes({ amplitude, states }) {
  const map = byId("map");
  if (map.children.length !== states.length) {
    map.style.setProperty("--electrodes", scope.rows / scope.bands);
    map.replaceChildren(...states.map(() => document.createElement("i")));
  }
  const each = scope.rows / scope.bands;
  const bad = [];
  states.forEach((state, at) => {
    const cell = map.children[at];
    const name = `${scope.names[Math.floor(at / each)]} ${at % each}`;
    cell.className = state;
    cell.title = `${name}: ${state}, ${amplitude[at].toFixed(1)} µV`;
    if (state !== "good") bad.push(`${name} ${state === "hum" ? "hums" : `is ${state}`}`);
  });
  const listed = bad.slice(0, 4).join(", ") + (bad.length > 4 ? ` and ${bad.length - 4} more` : "");
  byId("contact").textContent = bad.length ? `Check these electrodes: ${listed}.` : "All electrodes have good contact.";
}

byId("typing").addEventListener("keydown", press);
byId("typing").addEventListener("keyup", release);
byId("typing").addEventListener("blur", releaseAll);
byId("record").addEventListener("click", () => send({ type: "record", on: byId("record").textContent === "Record" }));
byId("adapt").addEventListener("click", () => send({ type: "adapt" }));
setInterval(sendKeys, 100);
setInterval(ping, 2000);

// The server ----------------------------------------------------------------------------------------------------------

function state(words, kind) {
  byId("state").textContent = words;
  document.body.classList.remove("running", "broken");
  if (kind) document.body.classList.add(kind);
}

function showReady(ready) {
  for (const name of ["source", "model", "decoder"]) {
    const list = byId(name);
    const { chosen, known } = ready.choices[name];
    list.replaceChildren(...known.map((one) => new Option(one, one, false, one === chosen)));
    list.parentElement.hidden = known.length < 2;
    if (!ready.bands) list.selectedIndex = -1; // the choice failed: any other one, also the one before, is a change
  }
  const { chosen, known } = ready.choices.lookahead;
  byId("ahead").hidden = known.length < 2;
  const inWords = (seconds) => `${Math.round(1000 * seconds)} ms`;
  byId("lookahead").replaceChildren(...known.map((one) => new Option(inWords(one), one, false, one === chosen)));
  if (!ready.choices.model.chosen) byId("decoder").parentElement.hidden = true;
  document.body.classList.toggle("modelless", !ready.choices.model.chosen);
  byId("weight").hidden = ready.choices.decoder.chosen !== "beam";
  if (ready.choices.lm_weight !== null) byId("lm_weight").value = ready.choices.lm_weight;
  byId("lm_shown").textContent = byId("lm_weight").value;
  byId("simulated").hidden = !ready.simulated;
  byId("types").hidden = ready.choices.types === null;
  showTypes({ on: ready.choices.types });
  text.committed = [...(ready.text ?? "")];
  text.tentative = [];
  byId("scored").replaceChildren();
  byId("truth").hidden = true;
  light([]);
  showText();
  if (!ready.bands) return state("nothing is running", "broken");
  startScope(ready);
  const model = ready.model?.replace(/^<\w+ |>$/g, ""); // such as <Model tds, 50 frames/s>
  const reading = model ? ` · ${model} · reads ${Math.round(1000 * ready.delay)} ms behind` : "";
  byId("about").textContent = ready.source + reading;
  state("running", "running");
}

function showTypes({ on }) {
  byId("type-keys").checked = on === true;
  document.body.classList.toggle("types", on === true);
}

const withHint = ({ what, hint }) => (hint ? `${what} (${hint})` : what);

const received = {
  ready: showReady,
  final(content) {
    commit([...content.text]);
  },
  partial(content) {
    text.tentative = [...content.text];
    showText();
    if (content.keys) light(content.keys);
  },
  scored(content) {
    showScored(content.lines);
  },
  stats: showStats,
  types: showTypes,
  pong: hearPong,
  recording: showRecording,
  electrodes: showElectrodes,
  adapting({ line }) {
    byId("adapting").textContent = line;
  },
  ended(content) {
    state(content.what ? withHint(content) : "the source has ended", content.what ? "broken" : "");
  },
  error(content) {
    state(withHint(content), "broken");
  },
};

const server = open({
  message(content) {
    received[content.type]?.(content);
  },
  columns: receiveColumns,
  opened() {
    for (const wait of [0, 100, 200, 300, 400]) setTimeout(ping, wait);
  },
  closed() {
    clock.heard = []; // a server that was started again may have another clock
    state("not connected; trying again", "broken");
  },
});

function send(content) {
  return server.send(content);
}

function choose(change) {
  state("starting", "");
  send({ type: "choose", ...change });
}

for (const name of ["source", "model", "decoder"]) {
  byId(name).addEventListener("change", ({ target }) => choose({ [name]: target.value }));
}
byId("type-keys").addEventListener("change", ({ target }) => send({ type: "types", on: target.checked }));
byId("lookahead").addEventListener("change", ({ target }) => choose({ lookahead: Number(target.value) }));
byId("lm_weight").addEventListener("input", ({ target }) => {
  byId("lm_shown").textContent = target.value;
});
let waiting = null; // arrow keys change the weight many times
byId("lm_weight").addEventListener("change", ({ target }) => {
  clearTimeout(waiting);
  waiting = setTimeout(() => choose({ lm_weight: Number(target.value) }), 600);
});
byId("choices").addEventListener("submit", (event) => event.preventDefault());

makeKeyboard();
requestAnimationFrame(drawScope);
