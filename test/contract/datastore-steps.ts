/** Steps that the datastore suite and its child processes share. Knows no test runner. */

import type { Datastore } from '../../src/lib/ports.ts'

/** Adds one to a number, as many times as asked, against everybody else who does. */
export async function increment(store: Datastore, key: string, times: number): Promise<void> {
  for (let done = 0; done < times; ) {
    const entry = await store.get(key)
    const next = String(Number(entry?.value ?? 0) + 1)
    const outcome = await store.commit([{ key, modRevision: entry?.modRevision ?? 0 }], [{ key, value: next }])
    if (outcome.ok) done++
  }
}
