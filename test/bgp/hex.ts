/** Octets written as text: spaces group fields. Shared by the tables of this folder. */

export function octets(text: string): Uint8Array {
  const digits = text.replaceAll(/\s+/g, '')
  return Uint8Array.from(digits.match(/../g) ?? [], pair => Number.parseInt(pair, 16))
}

export function hex(bytes: Uint8Array): string {
  return Array.from(bytes, byte => byte.toString(16).padStart(2, '0')).join('')
}

const marker = 'ffffffff ffffffff ffffffff ffffffff'

/** Header in front of a body given as hex. */
export function message(type: number, body: string): Uint8Array {
  const rest = octets(body)
  const length = 19 + rest.length
  return octets(`${marker} ${length.toString(16).padStart(4, '0')} 0${type} ${hex(rest)}`)
}
