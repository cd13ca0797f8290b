/*
 * The floor of the FIB bench: routes written into the kernel by a program that does nothing else.
 *
 *     fib-floor FAMILY GATEWAY BATCH FILE
 *
 * FILE has 17 octets per route: its length and its address. All messages are made before the clock starts; BATCH of them
 * travel per send, with an acknowledgement asked for on the last. Prints a line of JSON for all put in, and one for all
 * taken out again. NLM_F_CREATE | NLM_F_REPLACE, as a daemon that repairs its routes must write them.
 */
#include <arpa/inet.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>

enum { PROTOCOL = 82, METRIC = 32, MOST = 128 };

static int family, netlink, batch;
static unsigned char gateway[16];

static void fail(const char *what)
{
	perror(what);
	exit(1);
}

static void attribute(struct nlmsghdr *message, int type, const void *value, int length)
{
	struct rtattr *at = (void *)((char *)message + NLMSG_ALIGN(message->nlmsg_len));
	at->rta_type = type;
	at->rta_len = RTA_LENGTH(length);
	memcpy(RTA_DATA(at), value, length);
	message->nlmsg_len = NLMSG_ALIGN(message->nlmsg_len) + RTA_ALIGN(at->rta_len);
}

static int make(char *to, const unsigned char *record, int adds, unsigned sequence, int last)
{
	struct nlmsghdr *message = (void *)to;
	struct rtmsg *route = NLMSG_DATA(message);
	int octets = family == AF_INET ? 4 : 16, metric = METRIC;

	memset(to, 0, MOST);
	message->nlmsg_len = NLMSG_LENGTH(sizeof *route);
	message->nlmsg_type = adds ? RTM_NEWROUTE : RTM_DELROUTE;
	message->nlmsg_flags = NLM_F_REQUEST | (adds ? NLM_F_CREATE | NLM_F_REPLACE : 0) | (last ? NLM_F_ACK : 0);
	message->nlmsg_seq = sequence;
	route->rtm_family = family;
	route->rtm_dst_len = record[0];
	route->rtm_table = RT_TABLE_MAIN;
	route->rtm_protocol = PROTOCOL;
	route->rtm_scope = adds ? RT_SCOPE_UNIVERSE : RT_SCOPE_NOWHERE;
	route->rtm_type = RTN_UNICAST;
	attribute(message, RTA_DST, record + 1, octets);
	attribute(message, RTA_PRIORITY, &metric, 4);
	attribute(message, RTA_GATEWAY, gateway, octets);
	return message->nlmsg_len;
}

static void await(unsigned last)
{
	static char bytes[1 << 16];
	for (;;) {
		int length = recv(netlink, bytes, sizeof bytes, 0);
		if (length < 0)
			fail("recv");
		for (struct nlmsghdr *one = (void *)bytes; NLMSG_OK(one, length); one = NLMSG_NEXT(one, length)) {
			struct nlmsgerr *error = NLMSG_DATA(one);
			if (one->nlmsg_type == NLMSG_ERROR && error->error) {
				fprintf(stderr, "the kernel refuses message %u: %s\n", one->nlmsg_seq, strerror(-error->error));
				exit(1);
			}
			if (one->nlmsg_seq == last)
				return;
		}
	}
}

static double now(int clock)
{
	struct timespec time;
	clock_gettime(clock, &time);
	return time.tv_sec + time.tv_nsec / 1e9;
}

static void run(const char *phase, const unsigned char *records, int count, int adds)
{
	char *bytes = malloc((size_t)count * MOST + MOST);
	size_t *starts = malloc(((size_t)count / batch + 2) * sizeof *starts), at = 0;
	int batches = 0;

	for (int i = 0; i < count; i++) {
		if (i % batch == 0)
			starts[batches++] = at;
		at += make(bytes + at, records + 17 * (size_t)i, adds, i + 1, i % batch == batch - 1 || i == count - 1);
	}
	starts[batches] = at;
	double wall = now(CLOCK_MONOTONIC), cpu = now(CLOCK_PROCESS_CPUTIME_ID);
	for (int i = 0; i < batches; i++) {
		if (send(netlink, bytes + starts[i], starts[i + 1] - starts[i], 0) < 0)
			fail("send");
		await(i == batches - 1 ? count : (i + 1) * batch);
	}
	printf("{\"phase\":\"%s\",\"seconds\":%.6f,\"cpuSeconds\":%.6f}\n", phase, now(CLOCK_MONOTONIC) - wall,
	       now(CLOCK_PROCESS_CPUTIME_ID) - cpu);
	free(starts);
	free(bytes);
}

int main(int argc, char **argv)
{
	if (argc != 5)
		return 2;
	family = atoi(argv[1]) == 4 ? AF_INET : AF_INET6;
	if (inet_pton(family, argv[2], gateway) != 1)
		return 2;
	batch = atoi(argv[3]);
	FILE *file = fopen(argv[4], "rb");
	if (!file)
		fail(argv[4]);
	fseek(file, 0, SEEK_END);
	int count = ftell(file) / 17;
	rewind(file);
	unsigned char *records = malloc(17 * (size_t)count);
	if (fread(records, 17, count, file) != (size_t)count)
		fail("fread");
	netlink = socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE);
	struct sockaddr_nl own = {.nl_family = AF_NETLINK};
	int space = 4 << 20, one = 1;
	if (netlink < 0 || bind(netlink, (void *)&own, sizeof own))
		fail("netlink");
	setsockopt(netlink, SOL_SOCKET, SO_SNDBUF, &space, sizeof space);
	setsockopt(netlink, 270, NETLINK_CAP_ACK, &one, sizeof one);
	run("install", records, count, 1);
	run("remove", records, count, 0);
	return 0;
}
