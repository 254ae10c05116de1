// The filter of the page "Index: what real losses optimise": of all rows those that fit.
// Stands alone, as exercises do.  The address keeps the choices: #index=areal,nothing,drawn

function mountIndex(root) {
  const form = root.querySelector("form");
  const selects = [...form.querySelectorAll("select")];
  const live = form.querySelector("[aria-live]");
  const rows = [...root.querySelectorAll("tbody tr")];
  const inNotebook = "jpThemeLight" in document.body.dataset; // its address is JupyterLab's

  const show = () => {
    const fits = (row) =>
      selects.every(({ value, dataset }) => value === "any" || row.dataset[dataset.key] === value);
    for (const row of rows) row.hidden = !fits(row);
    const shown = rows.filter((row) => !row.hidden).length;
    live.textContent = `${shown} of ${rows.length} verdicts`;
  };

  const choose = (values) => {
    for (const [at, select] of selects.entries()) {
      const known = [...select.options].some(({ value }) => value === values[at]);
      select.value = known ? values[at] : "any";
    }
    show();
  };

  // A link to a verdict shows it, whatever was filtered for.
  const read = () => {
    const [, given] = location.hash.match(/^#index=(.*)$/) ?? [];
    if (given !== undefined) return choose(given.split(","));
    const named = location.hash.slice(1);
    const linked = rows.find(({ id }) => id === named || encodeURIComponent(id) === named);
    if (!linked) return show();
    choose([]);
    linked.querySelector("details").open = true;
    linked.scrollIntoView();
  };

  const keep = () => {
    show();
    const chosen = selects.map(({ value }) => value);
    if (!inNotebook) history.replaceState(null, "", `#index=${chosen.join(",")}`);
  };

  form.addEventListener("change", keep);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.querySelector("button").addEventListener("click", () => {
    choose([]);
    keep();
  });
  if (!inNotebook) addEventListener("hashchange", read);
  if (inNotebook) show();
  else read();
  form.hidden = false;
}
