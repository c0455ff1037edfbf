// A session that is read in the browser alone, by ONNX Runtime Web: what the server of `emgscribe live` would send.

import * as ort from "./ort.wasm.min.mjs";

const STEP = 20; // ms between two clock checks
const BEHIND = 0.5; // s of samples that may wait before the session pauses
const PAUSE = 0.8; // s without a key between two pieces that are scored separately
const NEAR = 0.4; // s within which a key is read, or never
const KEPT = 1000; // latest latencies
const LIT = 0.02; // probability above which a key is lit

/** Read the session over and over. `message` gets what the server would send as JSON, `columns` the scope's columns. */
export function open({ message, columns, opened }) {
  ort.env.wasm.numThreads = 1;
  const failed = (error) => message({ type: "error", what: String(error.message ?? error), hint: "" });
  Promise.all([
    fetch("about.json").then((answer) => answer.json()),
    fetch("emg.bin").then((answer) => answer.arrayBuffer()),
    ort.InferenceSession.create("model.onnx"),
  ])
    .then(([about, emg, network]) => {
      opened();
      return new Reader(about, new Int16Array(emg), network, message, columns).run();
    })
    .catch(failed);
  return { send() {} };
}

class Reader {
  constructor(about, emg, network, message, columns) {
    Object.assign(this, { about, emg, network, message, columns });
    this.row = about.bands.length * about.electrodes;
    this.size = about.frames * about.samples_per_frame; // samples of a step
    this.length = emg.length / this.row;
  }

  async run() {
    for (;;) {
      await this.begin();
      while (!(await this.advance())) await new Promise((done) => setTimeout(done, STEP));
    }
  }

  async begin() {
    const { about } = this;
    const only = (one) => ({ chosen: one, known: [one] });
    const choices = { source: only(about.source), model: only(about.model), decoder: only("greedy"), lookahead: only(0) };
    this.states = {};
    for (const [name, { type, shape }] of Object.entries(about.states)) {
      const size = shape.reduce((all, one) => all * one, 1);
      const values = type === "float64" ? new Float64Array(size) : new Float32Array(size);
      this.states[name] = new ort.Tensor(type, values, shape);
    }
    Object.assign(this, { fed: -about.silence, dropped: 0, frames: 0, last: about.symbols.length - 1, key: 0, scope: 0 });
    Object.assign(this, { typed: [], read: [], latencies: [], computing: [], counts: [0, 0] });
    this.message({ type: "ready", text: "", ...about, choices: { ...choices, lm_weight: null, types: null } });
    this.message({ type: "recording", possible: false, files: [] });
    this.clock = performance.now() / 1000;
    this.reported = 0;
  }

  /** Advance to the present; true at the session's end. */
  async advance() {
    const { about, size } = this;
    const now = () => performance.now() / 1000 - this.clock;
    const late = now() - Math.max(0, this.fed) / about.rate;
    if (late > BEHIND) this.clock += late - BEHIND / 2; // the page was hidden, or the machine is slow
    const present = Math.min(this.length, now() * about.rate);
    this.showColumns(present);
    const down = [];
    while (this.key < about.keys.length && about.keys[this.key][1] <= present / about.rate) down.push(about.keys[this.key++]);
    this.typed.push(...down);
    while (this.fed + size <= present) {
      const begun = performance.now();
      const emissions = await this.step();
      this.computing.push((performance.now() - begun) / 1000);
      this.show(emissions, now);
    }
    this.score(false);
    if (now() > this.reported + 0.5) this.report(now());
    if (this.fed + size <= this.length) return false;
    this.score(true);
    this.report(now());
    return true;
  }

  /** The network's step over the next samples; zeros stand for those before the first. */
  async step() {
    const { about, row, size } = this;
    const samples = new Float32Array(size * row);
    for (let at = 0; at < samples.length; at += 1) {
      const place = this.fed * row + at;
      if (place >= 0) samples[at] = this.emg[place] * about.unit;
    }
    const shape = [1, size, about.bands.length, about.electrodes];
    const made = await this.network.run({ emg: new ort.Tensor("float32", samples, shape), ...this.states });
    for (const name of Object.keys(this.states)) this.states[name] = made[`next_${name}`];
    this.fed += size;
    return made.emissions.data;
  }

  /** Show the keys in the step's emissions: the best class of each frame, repeats merged, blanks dropped. */
  show(emissions, now) {
    const { about } = this;
    const classes = about.symbols.length;
    const likely = new Float32Array(classes);
    let text = "";
    for (let frame = 0; frame < about.frames; frame += 1) {
      if (this.dropped < about.drop) {
        this.dropped += 1;
        continue;
      }
      const scores = emissions.subarray(frame * classes, (frame + 1) * classes);
      let best = 0;
      scores.forEach((score, at) => {
        likely[at] = Math.max(likely[at], Math.exp(score));
        if (score > scores[best]) best = at;
      });
      const onset = (this.frames * about.samples_per_frame) / about.rate;
      if (best !== classes - 1 && best !== this.last) {
        text += about.symbols[best];
        this.read.push([about.symbols[best], onset]);
        this.note(about.symbols[best], onset, now());
      }
      this.last = best;
      this.frames += 1;
    }
    if (text) this.message({ type: "final", text });
    const keys = about.symbols.slice(0, -1).map((symbol, at) => [symbol, likely[at]]);
    this.message({ type: "partial", text: "", keys: keys.filter(([, p]) => p > LIT) });
  }

  /** How long after key-down the nearest key of this symbol was shown. */
  note(symbol, onset, now) {
    const near = this.typed.filter((key) => key[0] === symbol && Math.abs(key[1] - onset) < NEAR && !key.seen);
    if (!near.length) return;
    const key = near.reduce((a, b) => (Math.abs(a[1] - onset) < Math.abs(b[1] - onset) ? a : b));
    key.seen = true;
    this.latencies = [...this.latencies, now - key[1]].slice(-KEPT);
  }

  /** Score what was typed up to a pause, or at the end all of it. */
  score(all) {
    const until = (this.frames * this.about.samples_per_frame) / this.about.rate - NEAR;
    const times = this.typed.map(([, time]) => time);
    let end = times.findIndex((time, at) => (times[at + 1] ?? (all ? Infinity : until)) - time > PAUSE && time < until);
    if (all && times.length) end = times.length - 1;
    if (end < 0) return;
    const cut = all ? Infinity : times[end] + PAUSE / 2;
    const typed = this.typed.splice(0, end + 1).map(([symbol]) => symbol);
    const read = this.read.filter(([, onset]) => onset < cut).map(([symbol]) => symbol);
    this.read = this.read.filter(([, onset]) => onset >= cut);
    const lines = sideBySide(typed, read);
    this.counts[0] += [...lines[2]].filter((mark) => mark !== " ").length;
    this.counts[1] += typed.length;
    this.message({ type: "scored", lines });
  }

  report(now) {
    const [errors, characters] = this.counts;
    const minutes = Math.max(1, now) / 60;
    this.reported = now;
    this.message({
      type: "stats", shown: quantiles(this.latencies), committed: quantiles(this.latencies),
      computing: quantiles(this.computing.slice(-KEPT)), cer: characters ? (100 * errors) / characters : null, characters,
      words_per_minute: this.key / 5 / minutes, waiting: 0, late: 0, quiet: 0, missing: 0, stalled: 0, not_finite: 0,
      dropped: 0, jumps: 0, reconnected: 0,
    });
  }

  /** Send the scope's columns up to the present: the lowest and the highest sample of each electrode. */
  showColumns(present) {
    const { row, about } = this;
    const wide = Math.round(about.column * about.rate);
    const count = Math.floor(present / wide) - this.scope;
    if (count <= 0) return;
    const buffer = new ArrayBuffer(8 + 4 * count * row);
    new DataView(buffer).setUint32(0, 1, true);
    const numbers = new Int16Array(buffer, 8);
    for (let column = 0; column < count; column += 1) {
      for (let at = 0; at < row; at += 1) {
        let low = 32767;
        let high = -32768;
        for (let sample = 0; sample < wide; sample += 1) {
          const value = this.emg[((this.scope + column) * wide + sample) * row + at];
          low = Math.min(low, value);
          high = Math.max(high, value);
        }
        numbers[2 * (column * row + at)] = low;
        numbers[2 * (column * row + at) + 1] = high;
      }
    }
    this.scope += count;
    this.columns(buffer);
  }
}

function quantiles(values) {
  if (!values.length) return [];
  const sorted = [...values].sort((a, b) => a - b);
  return [0.5, 0.95, 0.99].map((share) => sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))]);
}

/** Two lines with the fewest changes between them, and a line of marks: S, I, D, or a space where they agree. */
export function sideBySide(typed, read) {
  const costs = [Array.from({ length: read.length + 1 }, (_, at) => at)];
  for (let i = 1; i <= typed.length; i += 1) {
    const line = [i];
    for (let j = 1; j <= read.length; j += 1) {
      const same = costs[i - 1][j - 1] + (typed[i - 1] === read[j - 1] ? 0 : 1);
      line.push(Math.min(same, costs[i - 1][j] + 1, line[j - 1] + 1));
    }
    costs.push(line);
  }
  const found = ["", "", ""];
  let [i, j] = [typed.length, read.length];
  while (i || j) {
    const same = i && j && typed[i - 1] === read[j - 1];
    const kept = i && j && costs[i][j] === costs[i - 1][j - 1] + (same ? 0 : 1);
    const lost = !kept && i && costs[i][j] === costs[i - 1][j] + 1;
    const column = kept
      ? [typed[--i], read[--j], same ? " " : "S"]
      : lost
        ? [typed[--i], " ", "D"]
        : [" ", read[--j], "I"];
    column.forEach((one, at) => {
      found[at] = one + found[at];
    });
  }
  return found;
}
