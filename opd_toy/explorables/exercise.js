// An exercise: the reader predicts first; only then the page compares and explains.
// Stands alone (no shared modules), for a page holds several.

// What was typed, as JavaScript reads numbers: a leading plus, a true minus and a decimal comma
// are fine.
const asTyped = (text) =>
  text
    .trim()
    .replace(/^\+/, "")
    .replace("−", "-")
    .replace(/^(-?\d*),(\d+)$/, "$1.$2");

function mountExercise(root, { kind, answer, shown, tolerance, why }) {
  const form = root.querySelector("form");
  const verdict = root.querySelector("[aria-live]");
  const reveal = root.querySelector("[data-reveal]");
  const isNumber = kind === "number";
  const read = () =>
    isNumber
      ? asTyped(form.querySelector("input").value)
      : (form.querySelector("input:checked")?.value ?? "");
  const say = (state, text) => {
    root.dataset.state = state;
    verdict.textContent = text;
  };
  const isRight = (given) =>
    isNumber ? Math.abs(Number(given) - answer) <= tolerance + 1e-12 : given === answer;
  const miss = (given) => {
    if (!isNumber) return "Not this one.";
    return Number(given) < answer ? "Too small." : "Too large.";
  };
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const given = read();
    if (given === "" || (isNumber && Number.isNaN(Number(given)))) {
      say("empty", isNumber ? "Type a number first, for instance 0.5." : "Choose one first.");
      return;
    }
    reveal.hidden = false;
    if (isRight(given)) say("right", `Right: ${shown}. ${why}`);
    else say("wrong", `${miss(given)} Try again, or let the page show the answer.`);
  });
  reveal.addEventListener("click", () => say("told", `The answer is ${shown}. ${why}`));
}
