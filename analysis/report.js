// Charts are drawn as wide as the page has room for: panels stand side by side where they fit, else below each other.
const LEAST = 200, MOST = 1000;  // px of a panel

function countFacets(spec) {
  const rows = Object.values(spec.datasets ?? {}).flat(), field = spec.facet.field;
  return new Set(rows.map(row => row[field]).filter(value => value != null)).size || 1;
}
function widen(unit, width) {  // a panel, with all that is drawn in it
  if (typeof unit.width !== "object") unit.width = width;  // grids of pictures keep their steps
  if (unit.layer) return;
  for (const inner of unit.vconcat ?? []) widen(inner, width);
}
function arrange(spec, room, chrome, root = spec) {  // chrome: px beside each panel, for its axis and labels
  if (spec.hconcat) { spec.concat = spec.hconcat; delete spec.hconcat; }
  if (spec.vconcat) return Math.max(...spec.vconcat.map(each => arrange(each, room, chrome, root)));
  const count = spec.facet ? countFacets({...spec, datasets: root.datasets}) : spec.concat?.length ?? 1;
  const columns = Math.max(1, Math.min(count, 3, Math.floor(room / (LEAST + chrome))));
  const width = Math.max(120, Math.min(MOST, Math.floor(room / columns - chrome)));
  if (spec.facet) { spec.columns = columns; widen(spec.spec, width); }
  else if (spec.concat) {
    spec.columns = columns;
    for (const each of spec.concat) each.facet ? arrange(each, room / columns, chrome, root) : widen(each, width);
  } else widen(spec, width);
  return columns;
}
function fitted(name, chrome) {  // the specification, and the columns of its panels
  const spec = structuredClone(figures[name]), room = document.getElementById(name).clientWidth;
  const columns = arrange(spec, room, chrome);
  const legend = spec.config.legend;
  legend.columns = room > 700 ? 2 : 1;
  legend.labelLimit = Math.max(120, room / legend.columns - 60);
  return [spec, columns];
}
const views = {}, widths = {};
async function draw(name) {
  const box = document.getElementById(name), room = box.clientWidth;
  if (name in views && Math.abs(widths[name] - room) < 20) return views[name];
  widths[name] = room;
  let chrome = 70;
  for (let round = 0; round < 3; round++) {
    const [spec, columns] = fitted(name, chrome);
    views[name] = (await vegaEmbed(box, spec, {renderer: "svg", actions: false})).view;
    const over = box.querySelector("svg").clientWidth - room;
    if (over <= 0 && over > -30 * columns) break;
    chrome += over / columns + 2;  // axes and labels take more room than was allowed for, or less
  }
  box.querySelector("svg").setAttribute("aria-hidden", "true");  // its box says once what it is
  return views[name];
}
async function drawAll() {  // one chart after the other, so that the page can be used meanwhile
  for (const name in figures) {
    await draw(name);
    await new Promise(requestAnimationFrame);
  }
  document.documentElement.dataset.drawn = "all";
}
drawAll();
let waiting;
addEventListener("resize", () => { clearTimeout(waiting); waiting = setTimeout(drawAll, 250); });

function csv(spec) {
  const rows = Object.values(spec.datasets).flat();
  const columns = [...new Set(rows.flatMap(Object.keys))].filter(column => column !== "src");
  // Spreadsheets run cells that begin with these characters; numbers stay as they are.
  const tame = value => typeof value === "string" && /^[=+\-@\t\r]/.test(value) ? "'" + value : value;
  const quoted = value => /[",\n\r]/.test(value) ? '"' + String(value).replaceAll('"', '""') + '"' : value;
  const cell = value => value == null ? "" : quoted(tame(value));
  return [columns, ...rows.map(row => columns.map(column => row[column]))].map(row => row.map(cell).join(",")).join("\n") + "\n";
}
async function picture(name, kind) {
  const view = await draw(name);
  view.background("white");  // the page's own ground is not in the file
  const url = await view.toImageURL(kind, 2);
  view.background("transparent");
  return url;
}
document.addEventListener("click", async event => {
  const kind = event.target.dataset.kind;
  if (!kind) return;
  const name = event.target.parentNode.dataset.figure, link = document.createElement("a");
  link.download = name + "." + kind;
  link.href = kind === "csv" ? URL.createObjectURL(new Blob([csv(figures[name])], {type: "text/csv"})) : await picture(name, kind);
  link.click();
});
document.addEventListener("click", event => {
  if (event.target.matches(".anchor")) navigator.clipboard?.writeText(event.target.href).catch(() => {});
});

// Columns are sorted by a click on their heading: numbers by the first number of a cell, others as text.
function valueOf(cell) {
  const text = cell.textContent.trim().replaceAll("−", "-").replaceAll(",", "");
  const number = parseFloat(text.replace(/^[^\d.-]+/, ""));
  return cell.matches(".text, th") || Number.isNaN(number) ? text.toLowerCase() : number;
}
function sort(head) {
  const place = [...head.parentNode.children].indexOf(head), rising = head.getAttribute("aria-sort") !== "ascending";
  for (const other of head.parentNode.children) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", rising ? "ascending" : "descending");
  const last = (a, b) => (typeof a === "string") - (typeof b === "string");  // cells without a number
  for (const body of head.closest("table").tBodies) {
    const rows = [...body.rows].filter(row => row.cells.length > place && !row.querySelector("[scope=rowgroup]"));
    const keys = new Map(rows.map(row => [row, valueOf(row.cells[place])]));
    rows.sort((a, b) => {
      const [x, y] = [keys.get(a), keys.get(b)];
      if (typeof x !== typeof y) return last(x, y);
      return (rising ? 1 : -1) * (x < y ? -1 : x > y ? 1 : 0);
    });
    body.append(...rows);
  }
}
for (const head of document.querySelectorAll("thead th")) {
  head.tabIndex = 0;
  head.addEventListener("click", () => sort(head));
  head.addEventListener("keydown", event => { if (event.key === "Enter") sort(head); });
}
