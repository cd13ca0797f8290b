/** `datastore migrate lock|unlock`: no pod starts while the store is locked; what runs goes on. */

import { exitCodes } from '../report.ts'
import { withConnection, type Invocation } from './world.ts'

export const lock = (call: Invocation): Promise<number> => setReady(call, false, 'Datastore locked.\n')
export const unlock = (call: Invocation): Promise<number> => setReady(call, true, 'Datastore unlocked.\n')

async function setReady(call: Invocation, datastoreReady: boolean, text: string): Promise<number> {
  await withConnection(call, async ({ resources }) => {
    await resources.update('ClusterInformation', 'default', undefined, info =>
      info.spec.datastoreReady === datastoreReady ? undefined : { ...info, spec: { ...info.spec, datastoreReady } },
    )
  })
  call.world.out(text)
  return exitCodes.done
}
