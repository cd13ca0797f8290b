/** One connection between its socket and its owner: when it reads, when it does not, and that it reads again. */

import { describe, expect, test } from 'vitest'
import { Connection, type ConnectionOwner } from '../../src/bgp/session/connection.ts'
import { Turns } from '../../src/bgp/session/turns.ts'
import { encodeKeepalive } from '../../src/bgp/wire/message.ts'
import { encodeOpen, noCapabilities } from '../../src/bgp/wire/open.ts'
import { Ip } from '../../src/lib/ip.ts'
import type { Clock, Conn, ConnEvents, Transport } from '../../src/lib/ports.ts'
import { SimClock, SimRandom } from '../sim/clock.ts'

const open = encodeOpen({
  version: 4,
  as2: 64512,
  holdSeconds: 90,
  identifier: Ip.of('10.0.0.2').uint32,
  capabilities: noCapabilities,
})

/** An accepted connection on a socket that only remembers whether it is being read. */
class Scene {
  readonly #sim = new SimClock()
  #spentMs = 0
  readonly clock: Clock = {
    now: () => this.#sim.now() + this.#spentMs,
    wall: () => this.#sim.wall(),
    after: (ms, run) => this.#sim.after(ms, run),
  }
  readonly turns = new Turns(this.clock)
  readonly connection: Connection
  readonly events: ConnEvents
  isRead = true
  openReceived: () => void = () => {}

  constructor() {
    const setup = { accepted: true, passive: false, connectRetryMs: 5000, delayOpenMs: 0, openWaitMs: 30_000 }
    const owner: Partial<ConnectionOwner> = {
      ourOpen: () => open,
      openReceived: () => this.openReceived(),
      congested: () => false,
      sliceDone: () => {},
      counted: () => {},
      moved: () => {},
    }
    const end = { ip: Ip.of('10.0.0.2'), port: 179 }
    const conn: Conn = {
      local: end,
      remote: end,
      write: () => true,
      queued: () => 0,
      pause: () => void (this.isRead = false),
      resume: () => void (this.isRead = true),
      end: () => {},
      destroy: () => {},
    }
    const ports = { clock: this.clock, transport: {} as Transport, random: new SimRandom(1), turns: this.turns }
    this.connection = new Connection(setup, owner as ConnectionOwner, ports)
    this.events = this.connection.takeOver(conn)
  }

  /** Somebody else has used up this turn's time. */
  othersWork(): void {
    this.turns.until()
    this.#spentMs += 5
  }

  turn(): void {
    this.#sim.pass(1)
  }
}

describe('held by its owner while its socket waits for a turn (RFC 4271 §6.8, many connections at once)', () => {
  function heldInLine(watcher?: () => void): Scene {
    const scene = new Scene()
    scene.openReceived = () => scene.connection.hold(watcher)
    scene.othersWork()
    scene.events.data!(open)
    expect(scene.isRead).toBe(false)
    scene.turn()
    return scene
  }

  test('where somebody looks at what comes, more comes', () => {
    let looks = 0
    const { isRead, events, connection } = heldInLine(() => looks++)
    expect(isRead).toBe(true)
    events.data!(encodeKeepalive())
    expect(looks).toBe(1)
    expect(connection.unread.types).toEqual([4])
  })

  test('where nobody looks, it is read again once it is released, with nothing left to read', () => {
    const scene = heldInLine()
    expect(scene.isRead).toBe(false)
    scene.connection.release()
    scene.turn()
    expect(scene.isRead).toBe(true)
  })
})
