// The chart of the page "Decide": radio buttons, and of all answers those that they leave.
// Stands alone, as exercises do.  The address keeps the answers: #decide=logits,same,one,fresh,no

function mountDecide(root) {
  const radios = [...root.querySelectorAll("input")];
  const questions = [...new Set(radios.map((radio) => radio.dataset.question))];
  const live = root.querySelector("[aria-live]");
  const ways = [...root.querySelectorAll("[data-when]")];
  const inNotebook = "jpThemeLight" in document.body.dataset; // its address is JupyterLab's

  const answer = (question) =>
    radios.find((radio) => radio.dataset.question === question && radio.checked).value;

  const show = () => {
    const fits = (way) =>
      Object.entries(JSON.parse(way.dataset.when)).every(([question, answers]) =>
        answers.includes(answer(question)),
      );
    const chosen = ways.find(fits);
    for (const way of ways) way.hidden = way !== chosen;
    for (const advice of root.querySelectorAll("[data-kinds]"))
      advice.hidden =
        answer(advice.dataset.question) !== advice.dataset.answer ||
        !JSON.parse(advice.dataset.kinds).includes(chosen.dataset.kind);
    live.textContent = `Follow ${chosen.dataset.follow}.`;
  };

  const read = () => {
    const [, given] = location.hash.match(/^#decide=(.*)$/) ?? [];
    for (const [at, value] of (given ?? "").split(",").entries())
      for (const radio of radios)
        if (radio.dataset.question === questions[at] && radio.value === value) radio.checked = true;
    show();
  };

  root.addEventListener("change", () => {
    show();
    if (!inNotebook) history.replaceState(null, "", `#decide=${questions.map(answer).join(",")}`);
  });
  if (!inNotebook) addEventListener("hashchange", read);
  if (inNotebook) show();
  else read();
  root.hidden = false;
}
