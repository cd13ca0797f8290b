/** `config view`: each setting with its value and source; secrets as `set`. */

import { exitCodes } from '../report.ts'
import { settingsOf } from './connect.ts'
import { jsonText, plainTable } from './layout.ts'
import type { Invocation } from './world.ts'

/** Settings that only an agent reads are its own to show: manxd --print-config. */
const ofClients = /^(datastore|etcd|store$|runDir|stateDir|logLevel)/

export async function configView({ flags, world }: Invocation): Promise<number> {
  const config = await settingsOf(flags, world)
  const rows = config.rows().filter(row => ofClients.test(row.key))
  const type = { key: 'datastoreType', value: config.datastoreType, source: 'default' }
  const store = { key: 'store', value: config.storePath, source: 'default' }
  for (const derived of config.datastoreType === 'embedded' ? [type, store] : [type])
    if (!rows.some(row => row.key === derived.key)) rows.push({ ...derived, about: '' })
  rows.sort((a, b) => (a.key < b.key ? -1 : 1))
  if (flags.output === 'json') {
    const items = rows.map(({ key, value, source }) => ({ key, value, source }))
    world.out(`${jsonText({ apiVersion: 'manx/v1', kind: 'Config', items })}\n`)
  } else
    world.out(
      plainTable(
        ['KEY', 'VALUE', 'SOURCE'],
        rows.map(row => [row.key, row.value, row.source]),
        undefined,
        flags.headers !== false,
      ),
    )
  return exitCodes.done
}
