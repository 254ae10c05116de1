// Whatever scrolls sideways by itself must be reached and scrolled by the keyboard too.
// The theme sees to code and tables; this sees to equations. The article changes its size
// when the window does, when a proof is unfolded, and when the mathematics is set.
const reachWideEquations = () => {
  for (const equation of document.querySelectorAll('mjx-container[display="true"]')) {
    if (equation.scrollWidth > equation.clientWidth + 1) equation.tabIndex = 0;
    else equation.removeAttribute("tabindex");
  }
};
new ResizeObserver(reachWideEquations).observe(document.querySelector("main"));

// Paper is white.
const dressed = document.documentElement.dataset;
let worn;
addEventListener("beforeprint", () => {
  worn = dressed.theme;
  dressed.theme = "light";
});
addEventListener("afterprint", () => {
  dressed.theme = worn;
});

// Each piece of code can be copied. The clipboard may be refused; then the button says so.
for (const code of document.querySelectorAll("div.highlight")) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "copy";
  button.textContent = "Copy";
  button.addEventListener("click", async () => {
    const copied =
      navigator.clipboard?.writeText(code.querySelector("pre").textContent) ?? Promise.reject();
    button.textContent = await copied.then(
      () => "Copied",
      () => "Select the code to copy it",
    );
    setTimeout(() => {
      button.textContent = "Copy";
    }, 2000);
  });
  code.append(button);
}

// Long names in tables, signatures and lists of contents may break after a dot, an underscore,
// a comma, a sign.
const long = "td code .pre, dt.sig .pre, .bd-sidebar-secondary a .pre, .opd-index code";
for (const name of document.querySelectorAll(long)) {
  const pieces = name.textContent.split(/(?<=[._,(=/])(?=\w)/);
  name.replaceChildren(
    ...pieces.flatMap((piece, i) => (i ? [document.createElement("wbr"), piece] : [piece])),
  );
}
for (const parameter of document.querySelectorAll("dt.sig .sig-param"))
  parameter.before(document.createElement("wbr"));
