/** What the test and its children agree on: who the pods are, and which port is open. */

export const allowedPort = 9998
export const deniedPort = 9999

export const pods = {
  web: { link: 'caliweb', ips: ['10.48.0.1', 'fd48::1'] },
  stranger: { link: 'calistranger', ips: ['10.48.0.2', 'fd48::2'] },
} as const
