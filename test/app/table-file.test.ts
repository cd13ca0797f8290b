/** MRT files of the table: whole or not at all, in time, and no more of them than asked for. */

import { mkdtempSync, readdirSync, readFileSync, rmSync, utimesSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { fileAt, TableDumps, writeWhole } from '../../src/app/speaker/table-file.ts'
import type { Clock, Log } from '../../src/lib/ports.ts'

const startMs = Date.UTC(2026, 10, 21, 2, 22, 7)
let folder = ''
beforeEach(() => void (folder = mkdtempSync(join(tmpdir(), 'mx-monitor-'))))
afterEach(() => rmSync(folder, { recursive: true }))

/** Turns of the loop are real, since files are; longer waits are only noted, and `fire` ends them. */
class HandClock implements Clock {
  wallMs = startMs
  readonly waiting: { ms: number; run: () => void }[] = []

  now = (): number => this.wallMs
  wall = (): number => this.wallMs

  after = (ms: number, run: () => void): { cancel(): void } => {
    if (ms === 0) {
      const turn = setImmediate(run)
      return { cancel: () => clearImmediate(turn) }
    }
    const one = { ms, run }
    this.waiting.push(one)
    return { cancel: () => void this.waiting.splice(this.waiting.indexOf(one), 1) }
  }

  fire(): void {
    const [one] = this.waiting.splice(0, 1)
    this.wallMs += one!.ms
    one!.run()
  }
}

class NotedLog implements Log {
  readonly said: string[] = []
  error = (text: string, fields?: unknown): void => void this.said.push(`${text} ${JSON.stringify(fields)}`)
  warn = this.error
  info(): void {}
  debug(): void {}
  with = (): Log => this
}

const octets = (text: string) => Buffer.from(text)

test('a file is there when it is whole; meanwhile others have their turn', async () => {
  const clock = new HandClock()
  const file = join(folder, 'rib.mrt')
  const seen: string[][] = []
  let turns = 0
  const turn = setInterval(() => turns++, 0)
  function* chunks(): Iterable<Uint8Array> {
    for (const part of ['a', 'b', 'c']) {
      seen.push(readdirSync(folder))
      yield octets(part)
    }
  }
  expect(await writeWhole(file, chunks(), clock)).toEqual({ file, octets: 3 })
  clearInterval(turn)
  expect(readFileSync(file, 'utf8')).toBe('abc')
  expect(seen).toEqual([['rib.mrt.part'], ['rib.mrt.part'], ['rib.mrt.part']])
  expect(readdirSync(folder)).toEqual(['rib.mrt'])
  expect(turns).toBeGreaterThan(0)
})

test('a dump that fails half way leaves the one before, and nothing else', async () => {
  const file = join(folder, 'rib.mrt')
  writeFileSync(file, 'before')
  function* chunks(): Iterable<Uint8Array> {
    yield octets('half')
    throw new Error('no more')
  }
  await expect(writeWhole(file, chunks(), new HandClock())).rejects.toThrow('no more')
  expect([readdirSync(folder), readFileSync(file, 'utf8')]).toEqual([['rib.mrt'], 'before'])
})

const names = [
  { pattern: '/x/rib.mrt', want: '/x/rib.mrt' },
  { pattern: '/x/rib.%Y%m%d.%H%M%S.mrt', want: '/x/rib.20261121.022207.mrt' },
  { pattern: '/x/%H.%H', want: '/x/02.02' },
]
for (const { pattern, want } of names)
  test(`the time in a name: ${pattern}`, () => expect(fileAt(pattern, startMs)).toBe(want))

function make(dump: () => Iterable<Uint8Array> = () => [octets('table')]) {
  const clock = new HandClock()
  const log = new NotedLog()
  return { clock, log, dumps: new TableDumps({ clock, log, dump }) }
}

/** Until something looks otherwise than now: the disk has its own pace. */
async function written(look: () => unknown): Promise<void> {
  const before = JSON.stringify(look())
  await expect.poll(() => JSON.stringify(look()), { interval: 2, timeout: 20_000 }).not.toBe(before)
}

const listed = () => readdirSync(folder).filter(name => !name.endsWith('.part'))

test('by the clock on the wall, at whole multiples of the interval', async () => {
  const { clock, dumps } = make()
  dumps.configure({ file: join(folder, 'rib.%H%M%S.mrt'), everySeconds: 300 })
  for (const want of ['022500', '023000', '023500']) {
    const done = written(listed)
    clock.fire()
    await done
    expect(listed()).toContain(`rib.${want}.mrt`)
  }
  await dumps.stop()
  expect([listed().length, clock.waiting.length]).toEqual([3, 0])
})

test('only when asked for, where no interval is given; without a file never', async () => {
  const { clock, dumps } = make()
  expect(dumps.now()).toBe(false)
  dumps.configure({ file: join(folder, 'rib.mrt') })
  expect(clock.waiting).toEqual([])
  const done = written(listed)
  expect(dumps.now()).toBe(true)
  await done
  expect(readFileSync(join(folder, 'rib.mrt'), 'utf8')).toBe('table')
})

test('the oldest go, and files of other names stay', async () => {
  const { clock, dumps, log } = make()
  const strangers = ['rib.mrt', 'rib.2026.mrt', 'rib.20261121.0222.mrt.gz', 'other.20261121.0222.mrt']
  const old = ['rib.20261120.0100.mrt', 'rib.20261120.0200.mrt', 'rib.20261120.0300.mrt']
  for (const [i, name] of [...strangers, ...old].entries()) {
    writeFileSync(join(folder, name), '')
    utimesSync(join(folder, name), 1000 + i, 1000 + i)
  }
  dumps.configure({ file: join(folder, 'rib.%Y%m%d.%H%M.mrt'), everySeconds: 60, keep: 2 })
  const gone = written(() => listed().includes('rib.20261120.0100.mrt'))
  clock.fire()
  await gone
  expect(listed().toSorted()).toEqual([...strangers, 'rib.20261120.0300.mrt', 'rib.20261121.0223.mrt'].toSorted())
  expect(log.said).toEqual([])
})

test('a folder that is not there is said, and the next dump is tried all the same', async () => {
  const { clock, dumps, log } = make()
  dumps.configure({ file: join(folder, 'none', 'rib.mrt'), everySeconds: 60 })
  const said = written(() => log.said.length)
  clock.fire()
  await said
  expect(log.said[0]).toMatch(/^the table could not be written .*ENOENT/)
  expect(clock.waiting).toHaveLength(1)
})

test('stopping gives up what is being written', async () => {
  let endless = 0
  const { dumps } = make(function* () {
    for (;;) {
      endless++
      yield octets('more')
    }
  })
  dumps.configure({ file: join(folder, 'rib.mrt') })
  dumps.now()
  await written(() => endless > 2)
  await dumps.stop()
  expect(readdirSync(folder)).toEqual([])
})
