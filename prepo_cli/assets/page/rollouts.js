/* One rollout at a time. Whatever a model wrote is shown as text and never parsed. */

const browser = { rows: [], at: 0 };

function fill(select, values, labels = values) {
  select.replaceChildren(...values.map((value, i) => new Option(labels[i], value)));
}

const distinct = (values) => [...new Set(values)];

function chooseRecipe() {
  const ofRecipe = data.rollouts.filter((row) => row.recipe === Number(byId("rollout-recipe").value));
  fill(byId("rollout-run"), distinct(ofRecipe.map((row) => row.run)));
  chooseRun();
}

function chooseRun() {
  const recipe = Number(byId("rollout-recipe").value), run = byId("rollout-run").value;
  browser.rows = data.rollouts.filter((row) => row.recipe === recipe && row.run === run);
  fill(byId("rollout-step"), distinct(browser.rows.map((row) => row.step)));
  turnTo(0);
}

function turnTo(place) {
  if (place < 0 || place >= browser.rows.length) return;
  browser.at = place;
  const row = browser.rows[place];
  byId("rollout-step").value = row.step;
  byId("previous").disabled = place === 0;
  byId("next").disabled = place === browser.rows.length - 1;
  byId("rollout-title").textContent =
    `${data.recipes[row.recipe].name} · ${row.run} · step ${row.step} · ${place + 1} of ${browser.rows.length}`;
  byId("prompt-id").textContent = row.prompt_id;
  showText(byId("prompt"), row.prompt || "(not recorded)", row.prompt_cut);
  showText(byId("completion"), row.text || "(empty)", row.text_cut);
  const facts = { reward: row.reward, advantage: row.advantage, weight: row.weight, length: `${row.length} tokens`, fate: row.fate };
  byId("rollout-facts").replaceChildren(...Object.entries(facts).map(([name, value]) => fact(name, value, row.kept)));
}

function fact(name, value, kept) {
  const entry = document.createElement("div"), term = document.createElement("dt"), detail = document.createElement("dd");
  term.textContent = name;
  detail.textContent = value === null ? "–" : String(value).replace("-", "−");
  if (name === "fate") detail.className = kept ? "kept" : "dropped";
  entry.append(term, detail);
  return entry;
}

function showText(box, text, cut) {
  box.textContent = text;
  box.scrollTop = 0;
  if (!cut) return;
  const note = document.createElement("span");
  note.className = "cut";
  note.textContent = `\n… ${cut.toLocaleString("en")} more characters`;
  box.append(note);
}

function startRollouts() {
  if (byId("rollouts").hidden) return;
  const recipes = distinct(data.rollouts.map((row) => row.recipe));
  fill(byId("rollout-recipe"), recipes, recipes.map((i) => data.recipes[i].name));
  byId("rollout-recipe").addEventListener("change", chooseRecipe);
  byId("rollout-run").addEventListener("change", chooseRun);
  byId("rollout-step").addEventListener("change", (event) =>
    turnTo(browser.rows.findIndex((row) => row.step === Number(event.target.value))));
  byId("previous").addEventListener("click", () => turnTo(browser.at - 1));
  byId("next").addEventListener("click", () => turnTo(browser.at + 1));
  byId("rollouts").addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step || event.target.tagName === "SELECT" || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    turnTo(browser.at + step);
  });
  chooseRecipe();
}
