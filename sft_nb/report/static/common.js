// What the front ends of the reports and of the cleaner share; it stands before either of them.

// ---------------------------------------------------------------- elements

function fill(node, attributes, children) {
  for (const [key, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith('on')) node.addEventListener(key.slice(2), value);
    else if (key === 'vars') for (const [name, v] of Object.entries(value)) node.style.setProperty(name, v);
    else node.setAttribute(key, value === true ? '' : value);
  }
  node.append(...children.flat(Infinity).filter(c => c !== null && c !== undefined && c !== false && c !== ''));
  return node;
}
const h = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);
const s = (tag, attributes, ...children) => fill(document.createElementNS('http://www.w3.org/2000/svg', tag), attributes, children);
const user = text => h('bdi', {}, String(text)); // somebody's text, of any direction

function followTheme(root) { // the notebook's theme wins over the system's
  const { body, documentElement } = document;
  const read = () => {
    const light = body.dataset.jpThemeLight, dark = light === 'false' || body.classList.contains('vscode-dark') || documentElement.getAttribute('theme') === 'dark';
    if (light !== undefined || dark || body.className.includes('vscode')) root.dataset.theme = dark ? 'dark' : 'light';
  };
  const observer = new MutationObserver(read);
  observer.observe(body, { attributes: true, attributeFilter: ['data-jp-theme-light', 'class'] });
  read();
  return () => observer.disconnect();
}

// JupyterLab takes arrow keys and letters from whatever has the focus, unless that very element says not to.
const keepKeys = e => e.target.setAttribute('data-lm-suppress-shortcuts', 'true');
