import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { parseSelector, Selector, selectorId } from '../../src/model/index.ts'

const printed: [string, string][] = [
  ['', 'all()'],
  ['  \t', 'all()'],
  ['all()', 'all()'],
  ['all( )', 'all()'],
  ['global()', 'global()'],
  ["a == 'b'", 'a == "b"'],
  ['a=="b"', 'a == "b"'],
  [`a == 'say "x"'`, `a == 'say "x"'`],
  ["a != 'b'", 'a != "b"'],
  ['has(a)', 'has(a)'],
  ['!has( a )', '!has(a)'],
  ['!!has(a)', '!!has(a)'],
  ['a in {"z", "b", "z",}', 'a in {"b", "z"}'],
  ['a in {}', 'a in {}'],
  ['a notin {"b"}', 'a not in {"b"}'],
  ['a not  in {"b"}', 'a not in {"b"}'],
  ['a contains "b"', 'a contains "b"'],
  ['a starts  with "b"', 'a starts with "b"'],
  ['a ends with "b"', 'a ends with "b"'],
  ['a == "1" && b == "2" && c == "3"', '(a == "1" && b == "2" && c == "3")'],
  ['a == "1" || b == "2" && c == "3"', '(a == "1" || (b == "2" && c == "3"))'],
  ['(a == "1" || b == "2") && c == "3"', '((a == "1" || b == "2") && c == "3")'],
  ['((a == "1"))', 'a == "1"'],
  ['!(a == "1" && b == "2")', '!(a == "1" && b == "2")'],
  ['projectcalico.org/namespace == "shop"', 'projectcalico.org/namespace == "shop"'],
  ['in in {"in"}', 'in in {"in"}'],
  ['has == "x"', 'has == "x"'],
  ['contains contains "contains"', 'contains contains "contains"'],
  ['all == "x"', 'all == "x"'],
]

describe('canonical text', () => {
  for (const [text, want] of printed)
    test(`\`${text}\``, () => {
      expect(Selector.of(text).text).toBe(want)
      expect(Selector.of(want).text).toBe(want)
    })
})

describe('evaluation', () => {
  const labels = { app: 'web', tier: '', 'pcns.env': 'prod', constructor: 'own' }
  const cases: [string, boolean][] = [
    ['all()', true],
    ['global()', true],
    ['app == "web"', true],
    ['app == "we"', false],
    ['app != "web"', false],
    ['app != "x"', true],
    ['app contains "e"', true],
    ['app starts with "we"', true],
    ['app starts with "eb"', false],
    ['app ends with "eb"', true],
    ['app in {"web","db"}', true],
    ['app in {}', false],
    ['app not in {"web"}', false],
    ['app not in {}', true],
    ['has(tier)', true],
    ['tier == ""', true],
    ['tier contains ""', true],
    // An absent label: only `!=` and `not in` hold.
    ['none == ""', false],
    ['none != "x"', true],
    ['none in {"x"}', false],
    ['none not in {"x"}', true],
    ['none contains ""', false],
    ['none starts with ""', false],
    ['none ends with ""', false],
    ['has(none)', false],
    ['!has(none)', true],
    ['pcns.env == "prod"', true],
    ['app == "web" && none != "x"', true],
    ['app == "x" || has(tier)', true],
    ['!(app == "web" || has(none))', false],
    // Labels are own properties only, whatever they are called.
    ['has(toString)', false],
    ['has(constructor)', true],
    ['has(__proto__)', false],
  ]
  for (const [text, want] of cases) {
    test(`${text} is ${want}`, () => expect(Selector.of(text).matches(labels)).toBe(want))
    test(`${text} is ${want} of a Map`, () =>
      expect(Selector.of(text).matches(new Map(Object.entries(labels)))).toBe(want))
  }
})

describe('errors', () => {
  const ops = '`==`, `!=`, `in`, `not in`, `contains`, `starts with` or `ends with`'
  const cases: { text: string; at: number; message: string; suggestion?: string }[] = [
    { text: 'all', at: 0, message: '`all` is not a selector; did you mean `all()`?', suggestion: 'all()' },
    {
      text: 'has(a) && all',
      at: 10,
      message: '`all` is not a selector; did you mean `all()`?',
      suggestion: 'has(a) && all()',
    },
    { text: 'app', at: 3, message: `expected ${ops} after \`app\``, suggestion: 'has(app)' },
    { text: 'app = "web"', at: 4, message: `expected ${ops} after \`app\``, suggestion: 'app == "web"' },
    { text: 'app web', at: 4, message: `expected ${ops} after \`app\``, suggestion: 'app == "web"' },
    { text: 'app: web', at: 3, message: `expected ${ops} after \`app\``, suggestion: 'app == "web"' },
    {
      text: 'x == "1" && app = web',
      at: 16,
      message: `expected ${ops} after \`app\``,
      suggestion: 'x == "1" && app == "web"',
    },
    { text: 'app == web', at: 7, message: 'expected a text in quotes after `==`' },
    { text: 'app == "web', at: 11, message: 'expected a closing " after `web`' },
    { text: 'app in "web"', at: 7, message: 'expected `{` after `in`' },
    { text: 'app in {web}', at: 8, message: 'expected a text in quotes or `}` after `{`' },
    { text: 'app in {"a" "b"}', at: 12, message: 'expected `,` or `}` after `"a"`' },
    { text: '(app == "a"', at: 11, message: 'expected `&&`, `||` or `)` after `"a"`' },
    { text: 'app == "a")', at: 10, message: 'expected `&&`, `||` or the end after `"a"`' },
    { text: 'app == "a" && ', at: 14, message: 'expected a label, `has(...)`, `all()`, `!` or `(` after `&&`' },
    { text: '&& a', at: 0, message: 'expected a label, `has(...)`, `all()`, `!` or `(` at the start' },
    { text: 'has(', at: 4, message: 'expected a label after `(`' },
    { text: 'has(a', at: 5, message: 'expected `)` after `a`' },
    { text: 'a == "b"\n', at: 8, message: 'expected `&&`, `||` or the end after `"b"`' },
  ]
  for (const { text, at, message, suggestion } of cases)
    test(`\`${text}\``, () => {
      const parsed = parseSelector(text)
      expect(parsed.ok ? undefined : { at: parsed.error.at, message: parsed.error.message }).toEqual({ at, message })
      if (!parsed.ok) expect(parsed.error.suggestion).toBe(suggestion)
    })
  test('what is suggested is a selector', () => {
    for (const { suggestion } of cases) if (suggestion) expect(parseSelector(suggestion).ok).toBe(true)
  })
  test('labels and nesting are bounded', () => {
    expect(parseSelector(`${'a'.repeat(512)} == "x"`).ok).toBe(true)
    expect(parseSelector(`${'a'.repeat(513)} == "x"`).ok).toBe(false)
    expect(parseSelector(`${'('.repeat(100_000)}all()`).ok).toBe(false)
    expect(parseSelector(`${'!'.repeat(100_000)}all()`).ok).toBe(false)
    expect(parseSelector(`${'!'.repeat(150)}all()`).ok).toBe(true)
  })
  test('any text is parsed or refused with a place inside it', () =>
    fc.assert(
      fc.property(fc.stringMatching(/^[ab()!&|={}"', hasinot]{0,30}$/), text => {
        const parsed = parseSelector(text)
        if (!parsed.ok) expect(parsed.error.at).toBeLessThanOrEqual(text.length)
      }),
      { numRuns: 500 },
    ))
})

const label = fc.constantFrom('a', 'b', 'has', 'in', 'x/y.z_1')
const value = fc.constantFrom('', 'a', 'b', "it's", 'say "x"')
const { node: anySelector } = fc.letrec<{ node: string }>(tie => ({
  node: fc.oneof(
    { maxDepth: 4, withCrossShrink: true },
    fc.constantFrom('all()', 'global()'),
    label.map(l => `has(${l})`),
    fc
      .tuple(label, fc.constantFrom('==', '!=', 'contains', 'starts with', 'ends with'), value)
      .map(([l, op, v]) => `${l} ${op} ${v.includes('"') ? `'${v}'` : `"${v}"`}`),
    fc
      .tuple(label, fc.constantFrom('in', 'not in', 'notin'), fc.array(fc.constantFrom('a', 'b', '')))
      .map(([l, op, vs]) => `${l} ${op} {${vs.map(v => `"${v}"`).join(',')}}`),
    tie('node').map(n => `!(${n})`),
    fc.tuple(tie('node'), tie('node')).map(([a, b]) => `(${a}) && (${b})`),
    fc.tuple(tie('node'), tie('node')).map(([a, b]) => `(${a}) || (${b})`),
  ),
}))
const anyLabels = fc.dictionary(label, value)

describe('properties', () => {
  test('parse of print is identity, and evaluates alike', () =>
    fc.assert(
      fc.property(anySelector, anyLabels, (text, labels) => {
        const selector = Selector.of(text)
        const again = Selector.of(selector.text)
        expect(again.text).toBe(selector.text)
        expect(again.root).toEqual(selector.root)
        expect(again.matches(labels)).toBe(selector.matches(labels))
      }),
    ))
  test('labels that it does not name are never looked at', () =>
    fc.assert(
      fc.property(anySelector, anyLabels, (text, labels) => {
        const selector = Selector.of(text)
        const looked: string[] = []
        selector.matches({
          get(label) {
            looked.push(label)
            return Object.hasOwn(labels, label) ? labels[label] : undefined
          },
        })
        for (const label of looked) expect(selector.labels.has(label)).toBe(true)
      }),
    ))
  test('what matches meets every restriction', () =>
    fc.assert(
      fc.property(anySelector, anyLabels, (text, labels) => {
        const selector = Selector.of(text)
        if (!selector.matches(labels)) return
        for (const [name, { values }] of selector.restrictions) {
          expect(Object.hasOwn(labels, name)).toBe(true)
          if (values) expect(values.has(labels[name]!)).toBe(true)
        }
      }),
      { numRuns: 500 },
    ))
})

describe('restrictions', () => {
  const cases: [string, Record<string, string[] | 'present'>][] = [
    ['a == "1"', { a: ['1'] }],
    ['a in {"1","2"} && has(b)', { a: ['1', '2'], b: 'present' }],
    ['a == "1" && a in {"1","2"}', { a: ['1'] }],
    ['a == "1" && a == "2"', { a: [] }],
    ['a == "1" || a == "2"', { a: ['1', '2'] }],
    ['a == "1" || has(a)', { a: 'present' }],
    ['a == "1" || b == "1"', {}],
    ['(a == "1" && b == "1") || (a == "2" && c == "1")', { a: ['1', '2'] }],
    ['a starts with "x"', { a: 'present' }],
    ['a != "1"', {}],
    ['!has(a)', {}],
    ['all()', {}],
  ]
  for (const [text, want] of cases)
    test(text, () => {
      const got = [...Selector.of(text).restrictions].map(([name, { values }]) => [
        name,
        values ? [...values] : 'present',
      ])
      expect(Object.fromEntries(got)).toEqual(want)
    })
})

test('ids are `s:` and the SHA-224 of `s:` and the canonical text, in base64url without padding', () => {
  // printf '%s' 's:all()' | openssl dgst -sha224 -binary | basenc --base64url
  expect(Selector.of('').id).toBe(selectorId('all()'))
  expect(selectorId('all()')).toBe('s:5y5I3VdRZfDU01O--xXAPx2yxCQQqMf0M6IWug')
  expect(Selector.of("a=='b'").id).toBe(Selector.of('a == "b"').id)
})

test('selectors joined and over other labels', () => {
  expect(Selector.every([]).text).toBe('all()')
  expect(Selector.every([Selector.of('a == "1"'), Selector.of('all()')]).text).toBe('a == "1"')
  expect(Selector.every([Selector.of('a == "1"'), Selector.of('b == "2" || has(c)')]).text).toBe(
    '(a == "1" && (b == "2" || has(c)))',
  )
  expect(Selector.of('!has(a) && b in {"x"}').renameLabels(l => `pcns.${l}`).text).toBe(
    '(!has(pcns.a) && pcns.b in {"x"})',
  )
})
