// Small helpers to make elements. Text is only ever set as text, so that no name in a cluster can
// become markup.

export const $ = (id) => document.getElementById(id);

function make(element, props, children) {
  for (const [name, value] of Object.entries(props)) {
    if (value !== undefined && value !== null) element.setAttribute(name, value);
  }
  element.append(...children.filter((c) => c !== undefined && c !== null && c !== ""));
  return element;
}

export const h = (tag, props = {}, ...children) => make(document.createElement(tag), props, children);

export const svg = (tag, props = {}, ...children) =>
  make(document.createElementNS("http://www.w3.org/2000/svg", tag), props, children);

// keyed makes the children of parent those of items, in their order. An item with the key of a child
// updates it, so that focus and animations stay.
export function keyed(parent, items, keyOf, create, update) {
  const old = new Map([...parent.children].map((child) => [child.dataset.key, child]));
  const shown = new Set();
  let at = parent.firstElementChild;
  for (const item of items) {
    const key = keyOf(item);
    let child = old.get(key);
    if (child) {
      old.delete(key);
    } else {
      child = create(item);
      child.dataset.key = key;
    }
    update(child, item);
    shown.add(child);
    if (child === at) at = at.nextElementSibling;
    else parent.insertBefore(child, at);
  }
  for (const child of [...parent.children]) if (!shown.has(child)) child.remove();
}

export const clock = (time) => new Date(time).toLocaleTimeString([], { hour12: false });
