// Search, the theme, the menu of small screens, and a button that copies code. Everything else works without it.
const root = new URL(document.getElementById('site-script').dataset.root || './', location.href)
const $ = selector => document.querySelector(selector)

// Theme: as the system has it, until somebody switches.
$('#theme').addEventListener('click', () => {
  const dark = getComputedStyle(document.documentElement).colorScheme === 'dark'
  const theme = document.documentElement.dataset.theme = dark ? 'light' : 'dark'
  try { localStorage.setItem('theme', theme) } catch (e) {}
})

// Menu of small screens.
const menu = open => {
  $('#sidebar').classList.toggle('open', open)
  $('#menu').setAttribute('aria-expanded', String($('#sidebar').classList.contains('open')))
}
$('#menu').addEventListener('click', () => menu())

// A long list of pages opens at the one that is read.
$('#sidebar [aria-current]')?.scrollIntoView({block: 'nearest'})

// Copy.
for (const block of document.querySelectorAll('div.sourceCode')) {
  const button = document.createElement('button')
  Object.assign(button, {className: 'copy', type: 'button', textContent: 'Copy'})
  button.addEventListener('click', async () => {
    await navigator.clipboard.writeText(block.querySelector('code').innerText)
    button.textContent = 'Copied'
    setTimeout(() => button.textContent = 'Copy', 1500)
  })
  block.append(button)
}

// Search. The index is loaded when somebody first asks for it.
const input = $('#site-search'), panel = $('#results'), list = $('#results ol'), status = $('#search-status')
let engine, asked = 0
async function pagefind() {
  if (!engine) {
    engine = await import(new URL('pagefind/pagefind.js', root))
    await engine.options({baseUrl: root.pathname, excerptLength: 18})
  }
  return engine
}

function entry(result) {
  const item = document.createElement('li'), link = document.createElement('a'), title = document.createElement('strong')
  const excerpt = document.createElement('span')
  link.href = result.url
  title.textContent = result.title
  excerpt.innerHTML = result.excerpt // pagefind escapes the text and adds <mark>
  link.append(title, excerpt)
  item.append(link)
  return item
}

async function search() {
  const words = input.value.trim(), mine = ++asked
  if (!words) { panel.hidden = true; return }
  try {
    const found = await (await pagefind()).search(words)
    const pages = await Promise.all(found.results.slice(0, 8).map(r => r.data()))
    if (mine !== asked) return // somebody typed on
    const results = pages.flatMap(page => {
      const parts = page.sub_results.slice(0, 3)
      return parts.map(part => ({...part, title: part.title === page.meta.title ? part.title : `${page.meta.title} › ${part.title}`}))
    })
    list.replaceChildren(...results.map(entry))
    status.textContent = found.results.length ? `On ${found.results.length} page${found.results.length > 1 ? 's' : ''}` : `Nothing for “${words}”`
  } catch (error) {
    list.replaceChildren()
    status.textContent = location.protocol === 'file:' ? 'Search needs a server: `make preview`.' : `Search failed: ${error.message}`
  }
  panel.hidden = false
}

let timer
input.addEventListener('input', () => { clearTimeout(timer); timer = setTimeout(search, 120) })
input.addEventListener('focus', () => { if (input.value.trim()) panel.hidden = false })
document.addEventListener('click', event => { if (!event.target.closest('.search')) panel.hidden = true })
document.addEventListener('keydown', event => {
  const typing = event.target.matches('input, textarea, select, [contenteditable]')
  if (event.key === '/' && !typing) { event.preventDefault(); input.focus() }
  if (event.key === 'Escape') { panel.hidden = true; menu(false) }
  const links = [...list.querySelectorAll('a')]
  if (panel.hidden || !links.length || !['ArrowDown', 'ArrowUp'].includes(event.key)) return
  event.preventDefault()
  const next = links.indexOf(document.activeElement) + (event.key === 'ArrowDown' ? 1 : -1)
  next < 0 ? input.focus() : links[Math.min(next, links.length - 1)].focus()
})
