"use strict";

const $ = (id) => document.getElementById(id);
const KEY = "cliplet-key";
let photo = null;
let health = { search: false, explain: false, key_required: false, limits: {} };
let running = null;

function say(text) {
  $("status").textContent = text;
}

function fail(text) {
  $("error").textContent = text;
  $("error").hidden = !text;
}

function key() {
  try {
    return sessionStorage.getItem(KEY) || "";
  } catch {
    return "";
  }
}

/* One request; an error of the service becomes an Error with its sentence. */
async function ask(path, form, signal) {
  const headers = key() ? { "X-API-Key": key() } : {};
  let answer;
  try {
    answer = await fetch(path, { method: form ? "POST" : "GET", body: form, headers, signal });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The service does not answer. Is it still running?");
  }
  if (answer.ok) return answer;
  let message = "The service answered with status " + answer.status + ".";
  try {
    message = sentence((await answer.json()).error.message);
  } catch {
    /* an answer of somebody else, such as a proxy */
  }
  if (answer.status === 401) askForKey();
  throw new Error(message);
}

function sentence(text) {
  return text.charAt(0).toUpperCase() + text.slice(1) + (/[.?!]$/.test(text) ? "" : ".");
}

function askForKey() {
  $("key-form").hidden = false;
  $("key").focus();
}

function element(name, className, text) {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

/* ---- the photo ---- */

function usePhoto(file) {
  if (!file) return;
  if (file.type && !file.type.startsWith("image/")) {
    fail(file.name + " is not a photo.");
    return;
  }
  if (health.limits.max_body && file.size > health.limits.max_body) {
    fail("The photo has " + megabytes(file.size) + " MB; this service takes " + megabytes(health.limits.max_body) + " MB.");
    return;
  }
  fail("");
  $("rank-result").hidden = true; /* it was another photo's */
  if (running) running.abort();
  photo = file;
  const image = $("preview");
  if (image.src) URL.revokeObjectURL(image.src);
  image.onerror = () => { image.hidden = true; $("drop-text").hidden = false; };
  image.src = URL.createObjectURL(file);
  image.alt = "The chosen photo";
  image.hidden = false;
  $("drop-text").hidden = true;
  $("photo-name").textContent = file.name || "pasted photo";
  say("Photo chosen: " + (file.name || "pasted photo"));
}

function megabytes(bytes) {
  return (bytes / 1048576).toFixed(1);
}

function setUpPhoto() {
  const drop = $("drop");
  $("photo").addEventListener("change", () => usePhoto($("photo").files[0]));
  for (const name of ["dragenter", "dragover"]) {
    drop.addEventListener(name, (event) => { event.preventDefault(); drop.classList.add("over"); });
  }
  for (const name of ["dragleave", "drop"]) {
    drop.addEventListener(name, () => drop.classList.remove("over"));
  }
  drop.addEventListener("drop", (event) => {
    event.preventDefault();
    usePhoto([...event.dataTransfer.files].find((file) => file.type.startsWith("image/")) || event.dataTransfer.files[0]);
  });
  for (const name of ["dragover", "drop"]) {
    window.addEventListener(name, (event) => event.preventDefault()); /* a miss must not leave the page */
  }
  document.addEventListener("paste", (event) => {
    const file = [...event.clipboardData.files].find((item) => item.type.startsWith("image/"));
    if (file) usePhoto(file);
  });
}

/* ---- ranking ---- */

async function rank() {
  const captions = $("captions").value.split("\n").map((line) => line.trim()).filter(Boolean);
  if (!photo) {
    fail("Choose a photo first.");
    $("photo").focus();
    return;
  }
  if (!captions.length) {
    fail("Write at least one caption.");
    $("captions").focus();
    return;
  }
  const form = new FormData();
  form.append("photo", photo);
  for (const caption of captions) form.append("captions", caption);
  await work("rank", "Ranking …", async (signal) => {
    const answer = await (await ask("v1/score", form, signal)).json();
    const rows = showRanking(answer);
    if (health.explain) explainAll(rows, photo, signal);
  });
}

/* Run one request with its button busy; a later one ends an earlier one. */
async function work(button, text, run) {
  if (running) running.abort();
  const own = (running = new AbortController());
  fail("");
  say(text);
  $(button + "-result").hidden = true; /* an old result must not stand beside a new error */
  const shown = $(button);
  shown.setAttribute("aria-disabled", "true");
  try {
    await run(own.signal);
  } catch (error) {
    if (error.name !== "AbortError") {
      say("");
      fail(error.message);
    }
  } finally {
    if (running === own) shown.removeAttribute("aria-disabled");
  }
}

function showRanking(answer) {
  const results = answer.results.map((result, place) => ({ ...result, place }));
  const value = (row) => (row.score === null ? -Infinity : row.match === null ? row.score : row.match + 1e-6 * row.score);
  results.sort((a, b) => value(b) - value(a) || a.place - b.place);
  const best = Math.max(...results.map((row) => row.score || 0), 1e-9);
  const list = $("ranking");
  list.replaceChildren();
  const rows = results.map((row, i) => {
    const item = element("li", i === 0 && row.score !== null ? "best" : "");
    const caption = element("span", "caption", row.caption);
    const shown = element("span", "value");
    if (row.score === null) shown.textContent = "no score";
    else if (row.match !== null) {
      shown.append(percent(row.match), element("small", "", "match, " + answer.score_name + " " + row.score.toFixed(3)));
    } else shown.append(row.score.toFixed(3), element("small", "", answer.score_name));
    const why = element("p", "why", row.reason ? sentence(row.reason) : row.truncated ? "Cut: longer than the model reads." : "");
    item.append(element("span", "rank", i + 1 + "."), caption, shown);
    if (row.score !== null) {
      const meter = element("progress", "meter");
      meter.max = 1;
      meter.value = row.match !== null ? row.match : Math.max(0, row.score / best);
      meter.setAttribute("aria-hidden", "true");
      item.append(meter);
    }
    item.append(why);
    list.append(item);
    return { row, caption, why };
  });
  const first = results[0];
  $("rank-notes").textContent = [...answer.notes.map(sentence), ...(answer.match_reason ? ["Bars are relative to the best caption; compare scores within one photo."] : ["Match: how likely it is that the caption is the photo's own."])].join(" ");
  $("rank-result").hidden = false;
  $("rank-title").focus();
  say(first.score === null ? "No caption could be scored." : "Ranked " + results.length + " captions. Best: " + first.caption);
  return rows;
}

/* Never "100 %": a probability is no certainty. */
function percent(value) {
  const whole = Math.round(100 * value);
  return whole < 1 ? "< 1 %" : whole > 99 ? "> 99 %" : whole + " %";
}

/* The words that pull each caption down, worst caption first; the ranking stands meanwhile. */
async function explainAll(rows, file, signal) {
  for (const { row, caption, why } of [...rows].reverse()) {
    if (row.score === null) continue;
    const form = new FormData();
    form.append("photo", file);
    form.append("caption", row.caption);
    let found;
    try {
      found = await (await ask("v1/explain", form, signal)).json();
    } catch (error) {
      if (error.name === "AbortError") return;
      continue; /* the score stands without its reasons */
    }
    if (!caption.isConnected) return;
    const down = pullDown(found.units);
    mark(caption, row.caption, down);
    const text = found.wrong === null ? found.sentence.split(". ")[0] : found.sentence; /* no wrong word: the verdict alone */
    const words = down.length ? "Pulled down by: " + down.map((unit) => unit.text).join(", ") + "." : "";
    why.textContent = [why.textContent, text && sentence(text), words].filter(Boolean).join(" ");
  }
}

/* The units that take something noticeable from the score. */
function pullDown(units) {
  const largest = Math.max(...units.map((unit) => Math.abs(unit.share || 0)), 0);
  return units.filter((unit) => unit.share !== null && unit.share < 0 && -unit.share >= 0.15 * largest).sort((a, b) => a.start - b.start);
}

function mark(place, text, units) {
  const letters = [...text]; /* places are counted in characters, not in UTF-16 units */
  let at = 0;
  place.replaceChildren();
  for (const unit of units) {
    if (unit.start < at) continue;
    place.append(letters.slice(at, unit.start).join(""), element("mark", "", letters.slice(unit.start, unit.end).join("")));
    at = unit.end;
  }
  place.append(letters.slice(at).join(""));
}

/* ---- search ---- */

async function search() {
  const text = $("query").value.trim();
  const without = $("without").value.trim();
  const like = $("like").files[0];
  if (!text && !like) {
    fail("Write what to look for, or choose a photo.");
    $("query").focus();
    return;
  }
  const form = new FormData();
  if (text) form.append("text", text);
  if (without) form.append("without", without);
  if (like) form.append("photo", like);
  await work("search", "Searching …", async (signal) => {
    const answer = await (await ask("v1/search", form, signal)).json();
    await showPhotos(answer.photos, signal);
  });
}

async function showPhotos(photos, signal) {
  const grid = $("grid");
  for (const image of grid.querySelectorAll("img")) if (image.src.startsWith("blob:")) URL.revokeObjectURL(image.src);
  grid.replaceChildren();
  const images = photos.map((found) => {
    const item = element("li");
    const image = element("img");
    image.alt = found.path.split("/").pop();
    const line = element("p");
    line.append(element("span", "name", found.path.split("/").pop()), element("b", "", found.score.toFixed(3)));
    line.title = found.path;
    item.append(image, line);
    if (found.also.length) item.append(element("p", "also", "also: " + found.also.join(", ")));
    grid.append(item);
    return image;
  });
  $("search-result").hidden = false;
  $("search-title").textContent = photos.length ? photos.length + " photos" : "No photo found";
  $("search-title").focus();
  say($("search-title").textContent);
  await Promise.all(photos.map((found, i) => thumbnail(images[i], "v1/photos/" + encodeURIComponent(found.id) + "?size=400", signal)));
}

/* A picture that may need the key, which an <img> cannot send. */
async function thumbnail(image, path, signal) {
  if (!health.key_required) {
    image.src = path;
    return;
  }
  try {
    image.src = URL.createObjectURL(await (await ask(path, null, signal)).blob());
  } catch {
    /* its name stands in its place */
  }
}

/* ---- tabs ---- */

function setUpTabs() {
  const tabs = [...document.querySelectorAll("[role=tab]")];
  const choose = (chosen) => {
    for (const tab of tabs) {
      const own = tab === chosen;
      tab.setAttribute("aria-selected", String(own));
      tab.tabIndex = own ? 0 : -1;
      $(tab.getAttribute("aria-controls")).hidden = !own;
    }
    fail("");
    chosen.focus();
  };
  tabs.forEach((tab, i) => {
    tab.addEventListener("click", () => choose(tab));
    tab.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      const to = event.key === "Home" ? 0 : event.key === "End" ? tabs.length - 1 : step ? (i + step + tabs.length) % tabs.length : -1;
      if (to >= 0) {
        event.preventDefault();
        choose(tabs[to]);
      }
    });
  });
}

function setUpKey() {
  $("key-form").addEventListener("submit", (event) => {
    event.preventDefault();
    try {
      sessionStorage.setItem(KEY, $("key").value.trim());
    } catch {
      fail("This browser keeps nothing for this page, so the key cannot be used.");
      return;
    }
    $("key").value = "";
    $("key-form").hidden = true;
    fail("");
    say("Key set.");
    $("captions").focus();
  });
}

async function begin() {
  setUpPhoto();
  setUpTabs();
  setUpKey();
  $("rank-form").addEventListener("submit", (event) => { event.preventDefault(); rank(); });
  $("search-form").addEventListener("submit", (event) => { event.preventDefault(); search(); });
  $("captions").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) rank();
  });
  try {
    health = await (await ask("healthz")).json();
  } catch (error) {
    fail(error.message);
    return;
  }
  $("tabs").hidden = !health.search;
  if (!health.search) {
    $("panel-rank").removeAttribute("role"); /* one panel needs no tab */
    $("panel-rank").removeAttribute("aria-labelledby");
  }
  if (health.key_required && !key()) $("key-form").hidden = false;
  document.documentElement.dataset.ready = "true";
}

begin();
