-- What the notebooks use beyond plain Markdown: Quarto's callouts, and headings of the reference parts.
local titles = {note = 'Note', tip = 'Tip', warning = 'Warning', caution = 'Caution', important = 'Important'}

local function callout(div)
  for _, class in ipairs(div.classes) do
    local kind = class:match('^callout%-(%a+)$')
    if kind and titles[kind] then
      local title = {pandoc.Str(div.attributes.title or titles[kind])}
      local first = div.content[1]
      if first and first.t == 'Header' then title = first.content; div.content:remove(1) end
      div.content:insert(1, pandoc.Div({pandoc.Para({pandoc.Strong(title)})}, pandoc.Attr('', {'callout-title'})))
      return pandoc.Div(div.content, pandoc.Attr(div.identifier, {'callout', 'callout-' .. kind}, {role = 'note'}))
    end
  end
end

-- A section and a symbol may share a name ("## Predictions", `Predictions`). The anchor is the symbol's.
local function settle(doc)
  local symbols = {}
  doc:walk({Header = function(h) if h.classes:includes('api') then symbols[h.identifier] = true end end})
  return doc:walk({Header = function(h)
    if not h.classes:includes('api') and symbols[h.identifier] then h.identifier = h.identifier .. '-section'; return h end
  end})
end

-- Wide tables scroll by themselves, and not the page with them.
local function scroll(el) return pandoc.Div({el}, pandoc.Attr('', {'table-scroll'})) end

return {{Div = callout, Table = scroll}, {Pandoc = settle}}
