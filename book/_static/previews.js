// A link to an equation, a reference, a term or an erratum shows it, under the pointer and the
// keyboard's focus. Under a finger it is a link and no more. What stands on another page is in
// _static/previews, see book/_extensions/previews.py: a page from disk may load scripts only.
const PREVIEWED = /\/references\.html#|#(equation|term|erratum)-/;
const WAIT = 250; // milliseconds, so that a pointer on its way shows nothing

const preview = document.createElement("div");
Object.assign(preview, { id: "preview", className: "preview", hidden: true });
preview.setAttribute("role", "tooltip");
document.querySelector("main").append(preview);

const pages = {};
const partsOf = (name) =>
  (pages[name] ??= new Promise((resolve) => {
    const script = document.createElement("script");
    script.src = `${document.documentElement.dataset.content_root}_static/previews/${name}.js`;
    script.onload = () => resolve(window.opdPreviews[name]);
    script.onerror = () => resolve({});
    document.head.append(script);
  }));

const find = async (link) => {
  const id = decodeURIComponent(link.hash.slice(1));
  if (link.pathname !== location.pathname) {
    const name = link.pathname.split("/").pop().replace(".html", "");
    return (await partsOf(name))[id] ?? "";
  }
  const target = document.getElementById(id);
  const meaning = target?.matches("dt") ? target.nextElementSibling.innerHTML : "";
  return target ? target.innerHTML + meaning : "";
};

const place = (link) => {
  preview.style.translate = "none";
  preview.style.setProperty("--fit", 1);
  const fits = [...preview.querySelectorAll('mjx-container[display="true"]')].map(
    (equation) => equation.clientWidth / equation.scrollWidth,
  );
  preview.style.setProperty("--fit", Math.min(1, ...fits));
  const line = link.getClientRects()[0];
  const own = preview.getBoundingClientRect();
  const left = Math.max(8, Math.min(line.left, innerWidth - own.width - 8));
  const [above, below] = [line.top - own.height - 4, line.bottom + 4];
  const top = below + own.height < innerHeight || above < 0 ? below : above;
  preview.style.translate = `${left - own.left}px ${top - own.top}px`;
};

let wanted, pointed, timer;
const show = async (link) => {
  const html = await find(link);
  if (wanted !== link || !html) return;
  preview.innerHTML = html;
  for (const part of preview.querySelectorAll(".headerlink, .label")) part.remove();
  for (const part of preview.querySelectorAll("a")) part.replaceWith(...part.childNodes);
  for (const part of preview.querySelectorAll("[id], [tabindex]")) {
    part.removeAttribute("id");
    part.removeAttribute("tabindex");
  }
  preview.hidden = false;
  await window.MathJax?.typesetPromise?.([preview]);
  if (wanted !== link) return;
  place(link);
  link.setAttribute("aria-describedby", preview.id);
};
const want = (link, wait) => {
  clearTimeout(timer);
  if (link === wanted) return;
  timer = setTimeout(() => {
    wanted?.removeAttribute("aria-describedby");
    preview.hidden = true;
    wanted = link;
    if (link) show(link);
  }, wait);
};

const linkOf = (element) => {
  const link = element.closest?.("article a.internal[href]");
  return link && PREVIEWED.test(link.href) ? link : null;
};
document.addEventListener("pointerover", ({ target, pointerType }) => {
  if (pointerType === "touch") return;
  const link = linkOf(target);
  if (preview.contains(target)) clearTimeout(timer);
  else if (link && link !== pointed) want(link, WAIT);
  else if (!link && !wanted?.matches(":focus-visible")) want(null, WAIT);
  pointed = link;
});
document.addEventListener("focusin", ({ target }) => {
  if (target.matches(":focus-visible") && linkOf(target)) want(linkOf(target), 0);
});
document.addEventListener("focusout", () => want(null, 0));
document.addEventListener("pointerdown", () => want(null, 0));
document.addEventListener("keydown", ({ key }) => key === "Escape" && want(null, 0));
