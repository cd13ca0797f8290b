/** Records of sessions on their way to the disk: in order, in files by the clock, and never without bound. */

import { chmodSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmdirSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { UpdateLog } from '../../src/app/speaker/update-log.ts'
import type { Clock, Log } from '../../src/lib/ports.ts'

let folder = ''
beforeEach(() => void (folder = mkdtempSync(join(tmpdir(), 'mx-monitor-'))))
afterEach(() => rmSync(folder, { recursive: true }))

/** Time stands still until a test moves it; what was armed runs when `fire` is called. */
class HandClock implements Clock {
  wallMs = Date.UTC(2026, 10, 21, 2, 22, 7)
  #armed: (() => void)[] = []

  now = (): number => this.wallMs
  wall = (): number => this.wallMs

  after = (_ms: number, run: () => void): { cancel(): void } => {
    this.#armed.push(run)
    return { cancel: () => void this.#armed.splice(this.#armed.indexOf(run), 1) }
  }

  fire(): void {
    for (const run of this.#armed.splice(0)) run()
  }
}

function make() {
  const clock = new HandClock()
  const said: string[] = []
  const error = (text: string, fields?: unknown): void => void said.push(`${text} ${JSON.stringify(fields)}`)
  const log: Log = { error, warn: error, info() {}, debug() {}, with: () => log }
  return { clock, said, log: new UpdateLog({ clock, log }) }
}

const record = (text: string) => Buffer.from(text)
const read = (name: string) => readFileSync(join(folder, name), 'utf8')
const there = (name: string, text: string) =>
  expect.poll(() => readdirSync(folder).includes(name) && read(name), { interval: 2, timeout: 20_000 }).toBe(text)

test('in order, added to what is there; what waits is written at the end', async () => {
  const { clock, log, said } = make()
  log.configure({ file: join(folder, 'heard'), everySeconds: 900 })
  for (const text of ['a', 'b', 'c']) log.take(record(text))
  expect(readdirSync(folder)).toEqual([])
  clock.fire()
  await there('heard', 'abc')
  log.take(record('d'))
  await log.stop()
  expect([read('heard'), said]).toEqual(['abcd', []])
  const again = make()
  again.log.configure({ file: join(folder, 'heard'), everySeconds: 900 })
  again.log.take(record('e'))
  await again.log.stop()
  expect(read('heard')).toBe('abcde')
})

test('another name begins at whole multiples of the interval; the oldest files go', async () => {
  const { clock, log } = make()
  log.configure({ file: join(folder, 'heard.%H%M'), everySeconds: 900, keep: 2 })
  for (const [text, name] of [
    ['a', 'heard.0215'],
    ['b', 'heard.0230'],
    ['c', 'heard.0245'],
  ] as const) {
    log.take(record(text))
    clock.fire()
    await there(name, text)
    clock.wallMs += 900_000
  }
  await log.stop()
  expect(readdirSync(folder).toSorted()).toEqual(['heard.0230', 'heard.0245'])
})

test('beyond 16 MiB that wait records are dropped, and how many is said', async () => {
  const { clock, log, said } = make()
  log.configure({ file: join(folder, 'heard'), everySeconds: 900 })
  const large = Buffer.alloc(1 << 20)
  for (let i = 0; i < 20; i++) log.take(large)
  clock.fire()
  await expect.poll(() => said.length, { timeout: 20_000 }).toBe(1)
  await log.stop()
  expect(said[0]).toContain('"records":4')
  expect(readFileSync(join(folder, 'heard')).length).toBe(16 << 20)
})

test('a folder that is away loses what came meanwhile, and says so; when it is back, it goes on', async () => {
  const { clock, log, said } = make()
  const away = join(folder, 'away')
  log.configure({ file: join(away, 'heard'), everySeconds: 900 })
  log.take(record('lost'))
  clock.fire()
  await expect.poll(() => said.length, { timeout: 20_000 }).toBe(1)
  expect(said[0]).toMatch(/^records of sessions are lost .*"records":1.*ENOENT/)
  mkdirSync(away)
  chmodSync(away, 0o755)
  log.take(record('kept'))
  await log.stop()
  expect(readFileSync(join(away, 'heard'), 'utf8')).toBe('kept')
  rmSync(join(away, 'heard'))
  rmdirSync(away)
})

test('without a file nothing is kept', async () => {
  const { log } = make()
  log.take(record('a'))
  await log.stop()
  expect(readdirSync(folder)).toEqual([])
})
