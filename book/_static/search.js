// Sphinx finds an index entry only by the words in its own order. Here the words that readers type,
// which stand in the front matter of the pages, lead to their section in any order.
const asides = new Set(
  "a an and are by do does for how i in is it my of on one or per plus the to with".split(" "),
);
const wordsIn = (text) =>
  (text.toLowerCase().match(/[\w.+-]*\w/g) ?? [])
    .map((word) => word.replace(/^0\./, "."))
    .filter((word) => !asides.has(word));
const alike = (typed, known) =>
  typed === known ||
  (typed.length > 3 && known.startsWith(typed)) ||
  (known.length > 3 && typed.startsWith(known));

// The sections that readers' words lead to: [file, anchor, the words].
const answers = () => {
  const sections = new Map();
  for (const [entry, places] of Object.entries(Search._index.indexentries))
    for (const [file, anchor] of places) {
      const key = `${file} ${anchor}`;
      if (!sections.has(key)) sections.set(key, [file, anchor, new Set()]);
      for (const word of wordsIn(entry)) sections.get(key)[2].add(word);
    }
  return [...sections.values()];
};

const bySphinx = Search._performSearch;
Search._performSearch = (query, ...rest) => {
  const { docnames, filenames, titles, alltitles } = Search._index;
  const typed = wordsIn(query);
  const headings = new Map(
    Object.entries(alltitles).flatMap(([title, places]) =>
      places.map(([file, anchor]) => [`${file} ${anchor}`, title]),
    ),
  );
  const found = answers()
    .map(([file, anchor, known]) => {
      const missing = typed.filter((word) => ![...known].some((each) => alike(word, each)));
      return { file, anchor, missing: missing.length, known: known.size };
    })
    .filter(({ missing }) => typed.length > missing && missing <= Math.floor(typed.length / 3))
    .sort((a, b) => b.missing - a.missing || b.known - a.known) // the best comes last
    .map(({ file, anchor }) => {
      const heading = headings.get(`${file} ${anchor}`);
      const title = heading ? `${titles[file]} > ${heading}` : titles[file];
      return [docnames[file], title, `#${anchor}`, null, 100, filenames[file]];
    });
  const places = new Set(found.map(([doc, , anchor]) => doc + anchor));
  const others = bySphinx(query, ...rest).filter(([doc, , anchor]) => !places.has(doc + anchor));
  return [...others, ...found];
};
