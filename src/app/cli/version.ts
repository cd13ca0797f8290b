/** `version`: calicoctl's lines, of this program and of the cluster. A difference is only a warning. */

import { version } from '../../lib/version.ts'
import { exitCodes } from '../report.ts'
import { withConnection, type Invocation } from './world.ts'

export async function showVersion(call: Invocation): Promise<number> {
  const { world, flags } = call
  world.out(`Client Version:   ${version}\n`)
  if (flags.client) return exitCodes.done
  await withConnection(call, async ({ resources }) => {
    const info = await resources.find('ClusterInformation', 'default')
    const cluster = info?.spec.calicoVersion || 'unknown'
    world.out(`Cluster Version:  ${cluster}\nCluster Type:     ${info?.spec.clusterType || 'unknown'}\n`)
  })
  return exitCodes.done
}
