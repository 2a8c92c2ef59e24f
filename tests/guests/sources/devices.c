/* The hostile kernel as a frontend: it finds its disk and its network interface through xenstore as an honest one does, and then lies on
 * their rings. Each answer is reported as `NAME = STATUS`; tests/guests/devices.rs says what must come of each. */
#include "kernel.h"

#define DISK "device/vbd/51712"
#define DISK_BACKEND "/local/domain/0/backend/vbd/1/51712"
#define VIF "device/vif/0"
#define VIF_BACKEND "/local/domain/0/backend/vif/1/0"
/* Status of a request that was not answered. */
#define NO_ANSWER 99
#define FIRST_GRANT 8
#define NOT_GRANTED 100
/* No table has so many entries. */
#define WILD 0x00fffff0u

enum { XS_READ = 2, XS_WRITE = 11 };
enum { CONNECTED = 4, CLOSED = 6, INITIALISING = 1, INIT_WAIT = 2 };
enum { READ_WRITE = 1, READ_ONLY = 5 };

struct grant { u16 flags, domain; u32 frame; };
struct ring { volatile u32 req_prod, req_event, rsp_prod, rsp_event; char pad[48], entries[PAGE - 64]; };
struct segment { u32 grant; unsigned char first, last; u16 pad; };
struct block_request { unsigned char op, segments; u16 handle; u32 pad; u64 id, sector; struct segment list[11]; };
struct block_response { u64 id; unsigned char op, pad; short status; u32 pad2; };
struct tx_request { u32 grant; u16 offset, flags, id, size; };
struct tx_response { u16 id; short status; };

static struct ring ring __attribute__((aligned(4096))), receive_ring __attribute__((aligned(4096)));
static struct grant grants[PAGE / sizeof(struct grant)] __attribute__((aligned(4096)));
static unsigned char data[PAGE] __attribute__((aligned(4096)));
static u32 port;

static void yield(void)
{
	call(SCHED, 0, 0, 0, 0);
}

static void put(volatile char *ring_bytes, u32 *producer, const void *bytes, u64 count)
{
	for (u64 i = 0; i < count; i++)
		ring_bytes[(*producer)++ % 1024] = ((const char *)bytes)[i];
}

/* One request to xenstore (io/xs_wire.h), which waits for its answer; the answer's text, at most 255 bytes of it. */
static const char *ask(u32 kind, const char *path, const char *value)
{
	static char answer[256];
	volatile char *page = (volatile char *)(VIRT_BASE + info->store_mfn * PAGE);
	volatile u32 *index = (volatile u32 *)(page + 2048);
	u32 header[4] = { kind, 1, 0, length(path) + 1 + length(value) }, producer = index[1];
	put(page, &producer, header, sizeof header);
	put(page, &producer, path, length(path) + 1);
	put(page, &producer, value, length(value));
	__asm__ volatile("mfence" ::: "memory");
	index[1] = producer;
	notify(info->store_port);
	while (index[3] - index[2] < sizeof header)
		yield();
	for (u64 i = 0; i < sizeof header; i++)
		((char *)header)[i] = page[1024 + (index[2] + i) % 1024];
	while (index[3] - index[2] < sizeof header + header[3])
		yield();
	u64 kept = header[3] < sizeof answer - 1 ? header[3] : sizeof answer - 1;
	for (u64 i = 0; i < kept; i++)
		answer[i] = page[1024 + (index[2] + sizeof header + i) % 1024];
	answer[kept] = 0;
	index[2] += sizeof header + header[3];
	notify(info->store_port);
	return answer;
}

static const char *join(const char *folder, const char *key)
{
	static char path[128];
	u64 at = 0;
	for (; *folder; folder++)
		path[at++] = *folder;
	path[at++] = '/';
	for (; *key; key++)
		path[at++] = *key;
	path[at] = 0;
	return path;
}

static void publish(const char *folder, const char *key, u32 value)
{
	char digits[12];
	u64 at = sizeof digits - 1;
	digits[at] = 0;
	do
		digits[--at] = '0' + value % 10;
	while (value /= 10);
	ask(XS_WRITE, join(folder, key), digits + at);
}

static void wait_for(const char *backend, u32 state)
{
	while (ask(XS_READ, join(backend, "state"), "")[0] != (char)('0' + state))
		yield();
}

static void grant(u32 reference, u64 frame, u16 flags)
{
	grants[reference] = (struct grant){ 0, 0, frame };
	__asm__ volatile("mfence" ::: "memory");
	grants[reference].flags = flags;
}

static u64 frame_of(const void *page)
{
	return ((u64)page - VIRT_BASE) / PAGE;
}

/* The grant table, a channel to domain 0, and what every case grants: the rings as 8 and 9, a page as 10, the same to be read as 11. */
static void begin(void)
{
	u64 frame = 0;
	struct { u16 domain, pad; u32 frames; short status; u64 list; } op = { 0x7ff0, 0, 1, 0, (u64)&frame };
	call(GRANT_TABLE, 2, (u64)&op, 1, 0);
	map_at(grants, frame * PAGE);
	grant(FIRST_GRANT, frame_of(&ring), READ_WRITE);
	grant(FIRST_GRANT + 1, frame_of(&receive_ring), READ_WRITE);
	grant(FIRST_GRANT + 2, frame_of(data), READ_WRITE);
	grant(FIRST_GRANT + 3, frame_of(data), READ_ONLY);
	grant(FIRST_GRANT + 4, info->pages, READ_WRITE); /* behind the end of RAM */
	grant(FIRST_GRANT + 5, SHIM_GPA / PAGE, READ_WRITE);
	grant(FIRST_GRANT + 6, ~0u, READ_WRITE);
}

/* Fresh rings for a device that was not connected, or is closed. */
static void fresh_rings(void)
{
	u16 channel[4] = { 0x7ff0, 0 };
	for (u64 i = 0; i < PAGE; i++)
		((volatile char *)&ring)[i] = ((volatile char *)&receive_ring)[i] = 0;
	ring.rsp_event = receive_ring.rsp_event = 1;
	call(EVENT_CHANNEL, 6, (u64)channel, 0, 0);
	port = *(u32 *)(channel + 2);
}

static void connect(const char *folder, const char *backend, const char *ring_key)
{
	fresh_rings();
	publish(folder, ring_key, FIRST_GRANT);
	publish(folder, "rx-ring-ref", FIRST_GRANT + 1);
	publish(folder, "request-rx-copy", 1);
	publish(folder, "event-channel", port);
	publish(folder, "state", CONNECTED);
	wait_for(backend, CONNECTED);
}

/* Away and back again, as a frontend whose ring was refused. */
static void reconnect(const char *folder, const char *backend, const char *ring_key)
{
	publish(folder, "state", CLOSED);
	wait_for(backend, CLOSED);
	publish(folder, "state", INITIALISING);
	wait_for(backend, INIT_WAIT);
	connect(folder, backend, ring_key);
}

/* Moves the producer and waits until so many responses came; false if they do not come: the ring is closed, for another word to
 * xenstore is answered before them. */
static int submit(u32 requests, u32 responses)
{
	u32 wanted = ring.rsp_prod + responses;
	__asm__ volatile("mfence" ::: "memory");
	ring.req_prod += requests;
	notify(port);
	for (int turns = 0; turns < 200 && ring.rsp_prod != wanted; turns++)
		ask(XS_READ, "name", "");
	return ring.rsp_prod == wanted;
}

static long block(struct block_request request)
{
	u32 slot = ring.req_prod % 32;
	*(volatile struct block_request *)(ring.entries + slot * sizeof request) = request;
	if (!submit(1, 1))
		return NO_ANSWER;
	return ((volatile struct block_response *)(ring.entries + slot * sizeof request))->status;
}

static struct block_request read_to(u32 reference, u64 sector)
{
	return (struct block_request){ .segments = 1, .id = 7, .sector = sector, .list = { { reference, 0, 7, 0 } } };
}

void disk(void)
{
	begin();
	connect(DISK, DISK_BACKEND, "ring-ref");
	struct block_request good = read_to(FIRST_GRANT + 2, 0), bad = good;
	report("read", block(good));
	report("byte", data[4095]);
	report("wild grant", block(read_to(WILD, 0)));
	report("largest grant", block(read_to(~0u, 0)));
	report("not granted", block(read_to(NOT_GRANTED, 0)));
	report("read into a read-only grant", block(read_to(FIRST_GRANT + 3, 0)));
	report("grant behind RAM", block(read_to(FIRST_GRANT + 4, 0)));
	report("grant of the shim", block(read_to(FIRST_GRANT + 5, 0)));
	report("grant of the last frame", block(read_to(FIRST_GRANT + 6, 0)));
	report("grant of the ring itself", block(read_to(FIRST_GRANT, 1ul << 40)));
	report("half past the end", block(read_to(FIRST_GRANT + 2, 2044)));
	report("past the end", block(read_to(FIRST_GRANT + 2, 2048)));
	report("sector overflows", block(read_to(FIRST_GRANT + 2, ~0ul / 512 + 1)));
	report("sector max", block(read_to(FIRST_GRANT + 2, ~0ul)));
	bad.list[0].last = 8;
	report("segment leaves its page", block(bad));
	bad.list[0].first = 5, bad.list[0].last = 4;
	report("segment backwards", block(bad));
	bad = good, bad.segments = 12;
	report("12 segments", block(bad));
	bad.segments = 0;
	report("no segments", block(bad));
	bad = good, bad.op = 77;
	report("operation 77", block(bad));
	/* Indirect: the inner operation, then a number of segments, then the page with their descriptions. */
	bad = (struct block_request){ .op = 6, .segments = 0, .handle = 257 };
	report("257 indirect segments", block(bad));
	bad.segments = 6, bad.handle = 1;
	report("indirect of indirect", block(bad));
	bad.segments = 0;
	report("indirect page not granted", block(bad));
	report("read after all that", block(good));

	ring.req_prod += 1000;
	report("producer far ahead", block(good));
	ring.req_prod -= 1000;
	report("read from a closed ring", block(good));
	reconnect(DISK, DISK_BACKEND, "ring-ref");
	report("read from the next ring", block(good));
	ring.req_prod += 1000;
	report("producer far ahead again", block(good));
}

/* One chain of requests; the status of its first. */
static long transmit(const struct tx_request *chain, u32 slots)
{
	u32 first = ring.req_prod;
	for (u32 i = 0; i < slots; i++)
		((volatile struct tx_request *)ring.entries)[(first + i) % 256] = chain[i];
	if (!submit(slots, slots))
		return NO_ANSWER;
	return *(volatile short *)(ring.entries + first % 256 * sizeof *chain + 2);
}

/* A chain that closes the rings; then a new frontend is served. */
static void fatal(const char *name, const struct tx_request *chain, u32 slots)
{
	report(name, transmit(chain, slots));
	reconnect(VIF, VIF_BACKEND, "tx-ring-ref");
}

void network(void)
{
	static struct tx_request long_chain[21];
	struct tx_request good = { FIRST_GRANT + 3, 0, 0, 1, 60 }, bad = good, two[2] = { good, good };
	begin();
	for (int i = 0; i < 12; i++)
		data[i] = 0xff;
	connect(VIF, VIF_BACKEND, "tx-ring-ref");
	report("frame", transmit(&good, 1));
	static const u32 grants_of_nothing[] = { WILD, ~0u, NOT_GRANTED, FIRST_GRANT + 4, FIRST_GRANT + 5, FIRST_GRANT + 6 };
	for (u64 i = 0; i < sizeof grants_of_nothing / sizeof *grants_of_nothing; i++) {
		bad.grant = grants_of_nothing[i];
		report("bad grant", transmit(&bad, 1));
	}
	bad = good, bad.size = 13;
	report("13 bytes", transmit(&bad, 1));
	two[0].flags = 4, two[1].size = 61;
	report("pieces longer than the whole", transmit(two, 2));
	report("frame after all that", transmit(&good, 1));

	bad = good, bad.size = 4097;
	fatal("longer than a page", &bad, 1);
	bad.offset = 0xffff, bad.size = 0xffff;
	fatal("longest of all", &bad, 1);
	bad = good, bad.flags = 4;
	fatal("cut off", &bad, 1);
	for (int i = 0; i < 21; i++)
		long_chain[i] = (struct tx_request){ FIRST_GRANT + 3, 0, i < 20 ? 4 : 0, i, i ? 10 : 1000 };
	fatal("21 pieces", long_chain, 21);
	two[0].flags = 8, two[1] = (struct tx_request){ .grant = 9 };
	fatal("extra of type 9", two, 2);
	two[1] = (struct tx_request){ .grant = 1, .offset = 1 };
	fatal("segments of no bytes", two, 2);
	ring.req_prod += 1000;
	fatal("producer far ahead", &good, 1);
	/* Seen when the next frame comes in, and the switch sends all frames back. */
	receive_ring.req_prod += 1000;
	while (transmit(&good, 1) == 0)
		;
	fatal("receive producer far ahead", &good, 1);
	report("frame on the last ring", transmit(&good, 1));
}
