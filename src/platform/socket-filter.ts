/**
 * Classic BPF programs for sockets, and how one is attached.
 *
 * A program is a list of instructions (code, jump if true, jump if false, operand); its answer is how many octets of the
 * packet to keep, 0 to drop it. The kernel keeps its own copy. Loads from `networkHeader` on are relative to the IP
 * header, which a UDP socket's own view of a packet does not include.
 */

import type { Family } from '../lib/ip.ts'
import { setSocketFilter } from './ffi.ts'

export type Instruction = readonly [code: number, ifTrue: number, ifFalse: number, operand: number]

/** SKF_NET_OFF. */
const networkHeader = 0xfff0_0000
const loadByte = 0x30
const jumpIfEqual = 0x15
const answer = 0x06
const all = 0xffff_ffff

/** Drops everything. */
export const nothing: readonly Instruction[] = [[answer, 0, 0, 0]]

/** Passes what no router has forwarded (RFC 5082): TTL at octet 8 of IPv4, hop limit at octet 7 of IPv6. */
export function onlyTtl255(family: Family): readonly Instruction[] {
  return [
    [loadByte, 0, 0, networkHeader + (family === 4 ? 8 : 7)],
    [jumpIfEqual, 0, 1, 255],
    [answer, 0, 0, all],
    [answer, 0, 0, 0],
  ]
}

export function attachFilter(fd: number, program: readonly Instruction[]): void {
  // struct sock_filter: u16 code, u8 jump if true, u8 jump if false, u32 operand.
  const code = new Uint8Array(program.length * 8)
  const view = new DataView(code.buffer)
  for (const [i, [operation, ifTrue, ifFalse, operand]] of program.entries()) {
    view.setUint16(i * 8, operation, true)
    view.setUint8(i * 8 + 2, ifTrue)
    view.setUint8(i * 8 + 3, ifFalse)
    view.setUint32(i * 8 + 4, operand, true)
  }
  setSocketFilter(fd, code)
}
