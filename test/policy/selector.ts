/**
 * A second reading of the selector language (contract §2.4), for the naive reader only: text and labels in, yes or no
 * out. It evaluates while it reads, keeps no tree, and shares nothing with `src/model/selector.ts`, so that a mistake in
 * either shows as a disagreement.
 */

type Labels = Readonly<Record<string, string>>

const token =
  /[ \t]*(?:(\|\||&&|==|!=|!|\(|\)|\{|\}|,)|"([^"]*)"|'([^']*)'|(not[ \t]+in|notin|in|starts[ \t]+with|ends[ \t]+with|contains)(?![\w./-])|([\w./-]+))/y

interface Token {
  readonly kind: 'sign' | 'text' | 'operator' | 'word'
  readonly value: string
}

export function selects(text: string, labels: Labels): boolean {
  const tokens = split(text)
  if (tokens.length === 0) return true
  let at = 0
  const peek = (): string | undefined => (tokens[at]?.kind === 'text' ? undefined : tokens[at]?.value)
  const take = (): Token => tokens[at++] ?? fail(text)
  const sign = (value: string): void => void (take().value === value || fail(text))

  function or(): boolean {
    let is = and()
    while (peek() === '||') {
      at++
      // The right side is always read, whatever the left one says.
      const other = and()
      is = is || other
    }
    return is
  }
  function and(): boolean {
    let is = unary()
    while (peek() === '&&') {
      at++
      const other = unary()
      is = is && other
    }
    return is
  }
  function unary(): boolean {
    const { value } = take()
    if (value === '!') return !unary()
    if (value === '(') {
      const is = or()
      sign(')')
      return is
    }
    if (peek() === '(' && ['has', 'all', 'global'].includes(value)) {
      at++
      const is = value === 'has' ? Object.hasOwn(labels, take().value) : true
      sign(')')
      return is
    }
    return comparison(Object.hasOwn(labels, value) ? labels[value] : undefined)
  }
  function comparison(is: string | undefined): boolean {
    const operator = take().value.replace(/[ \t]+/g, ' ')
    if (operator === 'in' || operator === 'not in' || operator === 'notin') {
      const values = set()
      return (is !== undefined && values.includes(is)) === (operator === 'in')
    }
    const wanted = take().value
    switch (operator) {
      case '==':
        return is === wanted
      case '!=':
        return is !== wanted
      case 'contains':
        return is?.includes(wanted) ?? false
      case 'starts with':
        return is?.startsWith(wanted) ?? false
      case 'ends with':
        return is?.endsWith(wanted) ?? false
      default:
        return fail(text)
    }
  }
  function set(): string[] {
    const values: string[] = []
    sign('{')
    while (peek() !== '}') {
      values.push(take().value)
      if (peek() === ',') at++
    }
    sign('}')
    return values
  }

  const is = or()
  return at === tokens.length ? is : fail(text)
}

function split(text: string): Token[] {
  const tokens: Token[] = []
  const end = text.trimEnd().length
  token.lastIndex = 0
  while (token.lastIndex < end) {
    const found = token.exec(text) ?? fail(text)
    const [, sign, double, single, operator, word] = found
    if (sign !== undefined) tokens.push({ kind: 'sign', value: sign })
    else if (operator !== undefined) tokens.push({ kind: 'operator', value: operator })
    else if (word !== undefined) tokens.push({ kind: 'word', value: word })
    else tokens.push({ kind: 'text', value: double ?? single ?? '' })
  }
  return tokens
}

function fail(text: string): never {
  throw new Error(`the naive reader cannot read the selector \`${text}\``)
}
