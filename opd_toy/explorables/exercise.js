// An exercise: the reader predicts first; only then the page compares and explains.
// Stands alone (no shared modules), for a page holds several.

function mountExercise(root, { kind, answer, shown, tolerance, why }) {
  const form = root.querySelector("form");
  const verdict = root.querySelector("[aria-live]");
  const reveal = root.querySelector("[data-reveal]");
  const read = () => {
    if (kind === "choice") return form.querySelector("input:checked")?.value ?? "";
    return form
      .querySelector("input")
      .value.trim()
      .replace(/^\+/, "")
      .replace("−", "-")
      .replace(/^(-?\d*),(\d+)$/, "$1.$2");
  };
  const right = (given) =>
    kind === "choice" ? given === answer : Math.abs(Number(given) - answer) <= tolerance + 1e-12;
  const say = (state, text) => {
    root.dataset.state = state;
    verdict.textContent = text;
  };
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const given = read();
    if (given === "" || (kind === "number" && Number.isNaN(Number(given)))) {
      say(
        "empty",
        kind === "number" ? "Type a number first, for instance 0.5." : "Choose one first.",
      );
      return;
    }
    reveal.hidden = false;
    if (right(given)) say("right", `Right: ${shown}. ${why}`);
    else {
      const miss =
        kind === "choice" ? "Not this one." : Number(given) < answer ? "Too small." : "Too large.";
      say("wrong", `${miss} Try again, or let the page show the answer.`);
    }
  });
  reveal.addEventListener("click", () => say("told", `The answer is ${shown}. ${why}`));
}
