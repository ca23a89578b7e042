/** Filters as terms of one expression, `alignment >= 0.2 and topic = 'cats'`: read, changed and put together again. */

const TOKEN = /'(?:[^']|'')*'|"(?:[^"]|"")*"|`[^`]*`|[()]|[^\s()'"`]+|\s+|./gy;
const NUMBER = "[-+]?(?:\\d+\\.?\\d*|\\.\\d+)(?:[eE][-+]?\\d+)?";

/** The terms between the outermost `and`s; what has an outermost `or` is one term. */
export function terms(where) {
  const found = [""];
  let depth = 0;
  for (const [token] of where.matchAll(TOKEN)) {
    if (token === "(") depth += 1;
    if (token === ")") depth -= 1;
    const word = depth ? "" : token.toLowerCase();
    if (word === "or") return [where.trim()];
    if (word === "and") found.push("");
    else found[found.length - 1] += token;
  }
  return found.map((term) => term.trim()).filter(Boolean);
}

/** One expression that is true where all terms are. */
export function joined(list) {
  return list.length < 2 ? (list[0] ?? "") : list.map((term) => (hasOr(term) ? `(${term})` : term)).join(" and ");
}

function hasOr(term) {
  let depth = 0;
  for (const [token] of term.matchAll(TOKEN)) {
    if (token === "(") depth += 1;
    else if (token === ")") depth -= 1;
    else if (!depth && token.toLowerCase() === "or") return true;
  }
  return false;
}

/** A column as expressions name it. */
export function named(column) {
  const reserved = /^(and|or|not|in|is|null|contains|true|false)$/i;
  return /^[^\W\d]\w*$/.test(column) && !reserved.test(column) ? column : `\`${column}\``;
}

function quoted(text) {
  return `'${text.replaceAll("'", "''")}'`;
}

function escaped(text) {
  return text.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");
}

/** Whether a term is a filter of this column that the panel can show. */
function pattern(column) {
  const name = escaped(named(column));
  const text = "'(?:[^']|'')*'";
  const kinds = [
    `${name}\\s*(>=|<|<=|>|=|==)\\s*(${NUMBER})`,
    `${name}\\s*=\\s*(${text})`,
    `${name}\\s+in\\s*\\((\\s*${text}(?:\\s*,\\s*${text})*)\\s*\\)`,
    `(not\\s+)?${name}`,
    `${name}\\s+is\\s+null`,
  ];
  return new RegExp(`^(?:${kinds.join("|")})$`);
}

/** The terms that are not of this column. */
export function without(where, column) {
  const own = pattern(column);
  return joined(terms(where).filter((term) => !own.test(term)));
}

/** From and to, or null; `texts` that are chosen; `missing` when those without a value are. */
export function chosen(where, column) {
  const found = { low: null, high: null, texts: [], missing: false, truth: null, any: false };
  const own = pattern(column);
  for (const term of terms(where)) {
    const match = own.exec(term);
    if (!match) continue;
    found.any = true;
    const [, sign, number, text, list, not] = match;
    if (sign?.startsWith(">")) found.low = Number(number);
    else if (sign?.startsWith("<")) found.high = Number(number);
    else if (sign) found.low = found.high = Number(number);
    else if (text) found.texts = [unquoted(text)];
    else if (list) found.texts = [...list.matchAll(/'(?:[^']|'')*'/g)].map(([each]) => unquoted(each));
    else if (/\sis\s+null$/.test(term)) found.missing = true;
    else found.truth = !not;
  }
  return found;
}

function unquoted(text) {
  return text.slice(1, -1).replaceAll("''", "'");
}

/** With another range of a column: at least `low`, less than `high`; null is no bound. */
export function ranged(where, column, low, high) {
  const name = named(column);
  const bounds = [low !== null && `${name} >= ${low}`, high !== null && `${name} < ${high}`].filter(Boolean);
  return joined([...terms(without(where, column)), ...bounds]);
}

/** With other texts of a column; none is no filter. */
export function listed(where, column, texts) {
  const name = named(column);
  const list = texts.map(quoted);
  const term = list.length > 1 ? `${name} in (${list.join(", ")})` : `${name} = ${list[0]}`;
  return joined([...terms(without(where, column)), ...(list.length ? [term] : [])]);
}

/** With one term of a column, such as `nsfw is null`, in the place of others. */
export function replaced(where, column, term) {
  return joined([...terms(without(where, column)), ...(term ? [term] : [])]);
}

/** Filters as chips show them: a text, and the expression without them. */
export function chips(where) {
  const all = terms(where);
  const found = new Map(); // column → the places of its bounds, which are one chip
  all.forEach((term, place) => {
    const bound = /^(`[^`]+`|[^\W\d]\w*)\s*(>=|<)\s*(\S+)$/.exec(term);
    const key = bound ? bound[1] : `${place}`;
    found.set(key, [...(found.get(key) ?? []), { term, place, bound }]);
  });
  return [...found.values()].map((same) => {
    const places = same.map(({ place }) => place);
    const rest = joined(all.filter((_, place) => !places.includes(place)));
    const low = same.find(({ bound }) => bound?.[2] === ">=")?.bound;
    const high = same.find(({ bound }) => bound?.[2] === "<")?.bound;
    const both = same.length === 2 && low && high;
    const text = both ? `${low[1].replaceAll("`", "")} ${low[3]} – ${high[3]}` : same.map(({ term }) => term).join(" and ");
    return { text, rest };
  });
}
