/* Records of system calls, written to the vcpu's ring without leaving the guest (trace.h). A call is written when it comes and when its task
 * returns to user mode; what it names is copied then and there. A page that is not there yet is read at the end, when the kernel has touched it. */
#include "shim.h"
#include "trace.h"

#ifndef WITHOUT_TRACE

enum { TRACE_FULL = 1, TRACE_BELL = 2, TRACE_SYNC = 3 };
#define STRING_MAX 256ul
#define STRINGS_MAX 48
#define STRINGS_BYTES 4096ul
#define VECTORS_MAX 16
#define USER_END 0x0000800000000000ul
#define FMODE_WRITE 2
#define S_IFMT 0170000u
#define S_IFREG 0100000u
#define DESCRIPTORS_MAX 256u
#define PROBES 8
/* Linux' errno.h: the call is made again. What the program never sees, strace shows. */
#define ERESTARTSYS 512
#define ERESTART_RESTARTBLOCK 516
#define NR_RESTART_SYSCALL 219
/* Linux' struct rt_sigframe, from the handler's stack pointer: what is loaded again after it. */
#define SIGFRAME_RAX 152
#define SIGFRAME_RIP 176

/* A record being written. */
struct pen { u8 *start, *at, *end; };

static u64 minimum(u64 a, u64 b) { return a < b ? a : b; }
static u64 padded(u64 bytes) { return (bytes + 7) & ~7ul; }

/* Bytes of the guest that could not be copied. */
static u64 take(void *to, u64 from, u64 bytes)
{
	if (!guest_range_ok(from, bytes))
		return bytes;
	return guest_copy(to, (const void *)from, bytes);
}

static u64 take_user(void *to, u64 from, u64 bytes)
{
	return from + bytes < from || from + bytes > USER_END ? bytes : (u64)guest_copy(to, (const void *)from, bytes);
}

static u64 word(u64 at) { u64 value = 0; take(&value, at, 8); return value; }
static u32 half(u64 at) { u32 value = 0; take(&value, at, 4); return value; }

/* Room for a record of at most this length, or nothing. */
static struct pen reserve(u64 bytes)
{
	for (int attempt = 0; attempt < 2; attempt++) {
		u64 head = trace.head, used = head - trace.tail, offset = head & (RING_BYTES - 1);
		u64 skip = offset + bytes > RING_BYTES ? RING_BYTES - offset : 0;
		if (used <= RING_BYTES && RING_BYTES - used >= bytes + skip) {
			if (skip) {
				struct record *pad = (struct record *)(trace_ring + offset);
				pad->bytes = skip;
				pad->kind = RECORD_PAD;
				__atomic_store_n(&trace.head, head + skip, __ATOMIC_RELEASE);
				offset = 0;
			}
			u8 *start = trace_ring + offset;
			return (struct pen){ start, start, start + bytes };
		}
		if (attempt || trace.drop)
			break;
		u64 args[6] = { bytes + skip };
		call_vmm(CALL_TRACE, TRACE_FULL, args);
	}
	trace.lost++;
	return (struct pen){ 0, 0, 0 };
}

static void publish(struct pen *pen)
{
	u64 bytes = pen->at - pen->start;

	((struct record *)pen->start)->bytes = bytes;
	__atomic_store_n(&trace.head, trace.head + bytes, __ATOMIC_RELEASE);
	if (trace.head - trace.tail > RING_BYTES / 2 && !trace.belled) {
		trace.belled = 1;
		call_vmm(CALL_TRACE, TRACE_BELL, 0);
	}
}

static void put(struct pen *pen, u64 value)
{
	*(u64 *)pen->at = value;
	pen->at += 8;
}

/* A chunk of what lies at a user address. 1: some of it faulted. */
static int put_bytes(struct pen *pen, int arg, int index, u64 at, u64 length, u64 cap)
{
	u64 bytes = minimum(length, cap);

	if ((u64)(pen->end - pen->at) < sizeof(struct chunk) + padded(bytes))
		return 0;
	struct chunk *chunk = (struct chunk *)pen->at;
	u64 left = bytes ? take_user(pen->at + sizeof *chunk, at, bytes) : 0;
	*chunk = (struct chunk){ arg, (length > bytes ? CHUNK_CUT : 0) | (left ? CHUNK_FAULT : 0), index, bytes - left, length };
	pen->at += sizeof *chunk + padded(bytes - left);
	return left != 0;
}

/* A chunk of a string: read in pieces that do not cross a page, up to its end. 1: it faulted before. */
static int put_string(struct pen *pen, int arg, int index, u64 at)
{
	if ((u64)(pen->end - pen->at) < sizeof(struct chunk) + STRING_MAX)
		return 0;
	struct chunk *chunk = (struct chunk *)pen->at;
	u8 *text = pen->at + sizeof *chunk;
	u64 length = 0;
	int flags = CHUNK_CUT;

	while (length < STRING_MAX && flags == CHUNK_CUT) {
		u64 piece = minimum(minimum(64, STRING_MAX - length), 4096 - ((at + length) & 4095));
		u64 left = take_user(text + length, at + length, piece), got = piece - left;
		u64 n = 0;
		while (n < got && text[length + n])
			n++;
		length += n;
		if (n < got)
			flags = 0;
		else if (left)
			flags = CHUNK_FAULT;
	}
	*chunk = (struct chunk){ arg, flags, index, length, length };
	pen->at += sizeof *chunk + padded(length);
	return flags == CHUNK_FAULT;
}

static void put_strings(struct pen *pen, int arg, u64 list)
{
	u8 *end = pen->at + STRINGS_BYTES < pen->end ? pen->at + STRINGS_BYTES : pen->end;

	for (int i = 0; i < STRINGS_MAX && (u64)(end - pen->at) >= sizeof(struct chunk) + STRING_MAX; i++) {
		u64 at;
		if (take_user(&at, list + 8 * i, 8) || !at)
			return;
		put_string(pen, arg, i, at);
	}
}

/* Buffers of an iovec, until `length` bytes are there. */
static int put_vector(struct pen *pen, int arg, u64 list, u64 count, u64 length, u64 cap)
{
	int faulted = 0;

	for (u64 i = 0; i < minimum(count, VECTORS_MAX) && length && cap; i++) {
		u64 entry[2];
		if (take_user(entry, list + 16 * i, 16))
			return 1;
		u64 bytes = minimum(entry[1], length);
		faulted |= put_bytes(pen, arg, i, entry[0], bytes, cap);
		length -= bytes;
		cap -= minimum(bytes, cap);
	}
	return faulted;
}

static u32 kind_of(u64 spec, int arg) { return spec >> (8 + 4 * arg) & 15; }

/* What an argument names before the call. 1: it is to be read again at the end. */
static int put_before(struct pen *pen, u32 kind, int arg, const u64 *args, u64 cap)
{
	u64 at = args[arg], next = arg < 5 ? args[arg + 1] : 0, message[7];

	if (!at)
		return 0;
	switch (kind) {
	case ARG_STRING: return put_string(pen, arg, 0, at);
	case ARG_IN: return put_bytes(pen, arg, 0, at, next, cap);
	case ARG_SOCKADDR_IN: return put_bytes(pen, arg, 0, at, minimum(next, 128), 128);
	case ARG_VECTOR_IN: return put_vector(pen, arg, at, next, ~0ul, cap);
	case ARG_MESSAGE_IN:
		if (take_user(message, at, sizeof message))
			return 1;
		if (message[0])
			put_bytes(pen, arg, 255, message[0], minimum((u32)message[1], 128), 128);
		return put_vector(pen, arg, message[2], message[3], ~0ul, cap);
	case ARG_STRINGS: put_strings(pen, arg, at); return 0;
	case ARG_IN_16: return put_bytes(pen, arg, 0, at, 16, 16);
	default: return 0;
	}
}

/* What an argument names after it. */
static void put_after(struct pen *pen, u32 kind, int arg, const u64 *args, u64 cap, s64 result)
{
	u64 at = args[arg], next = arg < 5 ? args[arg + 1] : 0, message[7];

	if (!at || result < 0)
		return;
	switch (kind) {
	case ARG_OUT: put_bytes(pen, arg, 0, at, result, cap); break;
	case ARG_VECTOR_OUT: put_vector(pen, arg, at, next, result, cap); break;
	case ARG_MESSAGE_OUT:
		if (take_user(message, at, sizeof message))
			break;
		if (message[0])
			put_bytes(pen, arg, 255, message[0], minimum((u32)message[1], 128), 128);
		put_vector(pen, arg, message[2], message[3], result, cap);
		break;
	case ARG_SOCKADDR_OUT: {
		u32 length = 0;
		if (next && !take_user(&length, next, 4))
			put_bytes(pen, arg, 0, at, minimum(length, 128), 128);
		break;
	}
	case ARG_OUT_16: put_bytes(pen, arg, 0, at, 16, 16); break;
	case ARG_OUT_144: put_bytes(pen, arg, 0, at, 144, 144); break;
	}
}

/* No more room than this is taken by what the arguments name. */
static u64 bound(u64 spec, const u64 *args, u64 cap)
{
	u64 bytes = sizeof(struct record) + 48;

	for (int arg = 0; arg < 6; arg++) {
		u64 next = arg < 5 ? args[arg + 1] : 0;
		switch (kind_of(spec, arg)) {
		case ARG_VALUE: break;
		case ARG_STRING: bytes += sizeof(struct chunk) + STRING_MAX; break;
		case ARG_STRINGS: bytes += STRINGS_BYTES; break;
		case ARG_IN: case ARG_OUT: bytes += sizeof(struct chunk) + padded(minimum(cap, next)); break;
		case ARG_VECTOR_IN: case ARG_VECTOR_OUT: case ARG_MESSAGE_IN: case ARG_MESSAGE_OUT:
			bytes += (VECTORS_MAX + 1) * (sizeof(struct chunk) + 8) + 128 + padded(cap);
			break;
		default: bytes += sizeof(struct chunk) + 144;
		}
	}
	return minimum(bytes, RECORD_MAX);
}

static struct record *begin(struct pen *pen, int kind, u64 nr, u64 task)
{
	struct record *record = (struct record *)pen->at;

	pen->at += sizeof *record;
	record->kind = kind;
	record->flags = 0;
	record->nr = nr;
	record->time = system_time();
	record->task = task;
	record->pid = half(task + trace.at[AT_TASK_PID]);
	record->tgid = half(task + trace.at[AT_TASK_TGID]);
	record->uid = half(word(task + trace.at[AT_TASK_CRED]) + trace.at[AT_CRED_UID]);
	record->vcpu = area.me;
	if (take(record->comm, task + trace.at[AT_TASK_COMM], 16))
		record->comm[0] = 0;
	return record;
}

static u64 current(void) { return word(area.gs_kernel + trace.current); }

/* The open file of the task's descriptor, or 0. */
static u64 file_of(u64 task, u64 fd)
{
	u64 table = word(word(task + trace.at[AT_TASK_FILES]) + trace.at[AT_FILES_FDT]);

	if ((u32)fd >= half(table + trace.at[AT_FDT_MAX_FDS]))
		return 0;
	return word(word(table + trace.at[AT_FDT_FD]) + 8 * (u32)fd);
}

/* Is it a regular file, open for writing? Also one without a name. */
static int is_written(u64 file)
{
	u16 mode = 0;

	if (!file || !(half(file + trace.at[AT_FILE_MODE]) & FMODE_WRITE))
		return 0;
	take(&mode, word(file + trace.at[AT_FILE_INODE]) + trace.at[AT_INODE_MODE], 2);
	return (mode & S_IFMT) == S_IFREG;
}

/* Has the task such a file? With more descriptors than are looked at, it may. */
static int holds_written(u64 task)
{
	u64 table = word(word(task + trace.at[AT_TASK_FILES]) + trace.at[AT_FILES_FDT]);
	u32 descriptors = half(table + trace.at[AT_FDT_MAX_FDS]);
	u64 files = word(table + trace.at[AT_FDT_FD]);

	if (descriptors > DESCRIPTORS_MAX)
		return 1;
	for (u32 fd = 0; fd < descriptors; fd++)
		if (is_written(word(files + 8 * fd)))
			return 1;
	return 0;
}

/* How much is kept of a file's bytes; `*known`: 1 + its place among those that were asked for, or 0. */
static u64 file_cap(u64 file, int *known)
{
	u64 operations = word(file + trace.at[AT_FILE_OP]);

	if (operations == trace.sockets)
		operations = word(word(file + trace.at[AT_FILE_PRIVATE]) + trace.at[AT_SOCKET_OPS]);
	*known = 0;
	for (int i = 0; i < TRACE_FILES && trace.files[i].operations; i++) {
		if (trace.files[i].operations == operations) {
			*known = i + 1;
			return minimum(trace.files[i].cap, ARGUMENT_MAX);
		}
	}
	return minimum(trace.cap, STRING_MAX);
}

/* A call may end on another vcpu than it began on: one table for all, the first vcpu's. A task is on one vcpu at a time, and so is its entry. */
static struct pending *entry(u64 index)
{
	return (struct pending *)((u64)trace_pending - area.me * WINDOW_BYTES) + index % TRACE_PENDING;
}

static u64 first_of(u64 task) { return (task >> 6) * 0x9e3779b97f4a7c15ul >> 54; }

static struct pending *slot(u64 task)
{
	for (u64 i = 0; i < PROBES; i++) {
		struct pending *p = entry(first_of(task) + i);
		if (p->task == task)
			return p;
	}
	return 0;
}

static struct pending *free_slot(u64 task)
{
	for (u64 i = 0; i < PROBES; i++) {
		struct pending *p = entry(first_of(task) + i);
		u64 none = 0;
		if (!p->task && __atomic_compare_exchange_n(&p->task, &none, task, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
			return p;
	}
	return 0;
}

static void sync(void) { call_vmm(CALL_TRACE, TRACE_SYNC, 0); }

void trace_enter(int compat)
{
	u64 nr = (u32)area.regs.rax;

	if (nr >= TRACE_CALLS)
		return;
	u64 spec = trace.spec[compat][nr];
	if (!(spec & SPEC_RECORD))
		return;
	const struct regs *r = &area.regs;
	u64 args[6] = { r->rdi, r->rsi, r->rdx, r->r10, r->r8, r->r9 };
	if (compat) {
		u64 narrow[6] = { r->rbx, r->rcx, r->rdx, r->rsi, r->rdi, r->rbp };
		for (int i = 0; i < 6; i++)
			args[i] = (u32)narrow[i];
	}
	u64 task = current(), cap = minimum(trace.cap, STRING_MAX);
	u64 file = 0;
	int known = 0;
	if (spec & SPEC_FILE) {
		file = file_of(task, args[spec & SPEC_SECOND ? 1 : 0]);
		if (file)
			cap = file_cap(file, &known);
		if (spec & SPEC_KNOWN_FILE && !known)
			return;
		if (spec & SPEC_WRITTEN && !is_written(file))
			return;
	}
	struct pen pen = reserve(bound(spec, args, cap));
	if (!pen.start)
		return;
	struct record *record = begin(&pen, RECORD_ENTER, nr, task);
	u64 seq = record->seq = ++trace.seq | area.me << SEQ_VCPU_SHIFT;
	u64 flags = record->flags = (compat ? RECORD_COMPAT : 0) | known << RECORD_FILE_SHIFT;
	record->file = file;
	for (int i = 0; i < 6; i++)
		put(&pen, args[i]);
	u64 again = 0;
	for (int i = 0; i < 6; i++)
		if (kind_of(spec, i) && put_before(&pen, kind_of(spec, i), i, args, cap))
			again |= 1ul << (32 + i);
	publish(&pen);
	if (spec & SPEC_SYNC_ENTER && (spec & SPEC_FILE ? is_written(file) : holds_written(task)))
		sync();
	if (spec & SPEC_NO_RETURN)
		return;
	struct pending *p = slot(task);
	if (!p)
		p = free_slot(task);
	if (!p) {
		/* The table is full: one that waits longest is forgotten, and its result with it. */
		p = entry(first_of(task));
		trace.lost++;
	}
	*p = (struct pending){ task, seq, spec | again | r->rip << PENDING_RIP, nr | cap << 16 | flags << 56, file, { args[0], args[1], args[2], args[3], args[4], args[5] } };
}

/* Does the call begin again when the program goes on here? */
static int restarts(u64 spec, u64 rip) { return (rip + 2) << PENDING_RIP == (spec & ~0ul << PENDING_RIP); }

/* What a call has come to. A signal that is pending at its end is handled first: the task then goes on in the handler, or makes the call once
 * more, and what is in rax is not the result. */
static u64 outcome(const struct pending *call, u64 rax, u64 rip, u64 rsp)
{
	u64 saved[4];

	if (rip << PENDING_RIP == (call->spec & ~0ul << PENDING_RIP))
		return rax;
	if (!restarts(call->spec, rip)) {
		/* A handler, by its frame; else execve, or a 32-bit program that the kernel sends elsewhere. rax, rcx, rsp and rip follow each other. */
		if (call->nr >> 56 & RECORD_COMPAT || take_user(saved, rsp + SIGFRAME_RAX, sizeof saved))
			return rax;
		if (saved[3] << PENDING_RIP == (call->spec & ~0ul << PENDING_RIP))
			return saved[0];
		if (!restarts(call->spec, saved[3]))
			return rax;
		rax = saved[0];
	}
	return rax == NR_RESTART_SYSCALL ? -ERESTART_RESTARTBLOCK : -ERESTARTSYS;
}

/* The task returns to user mode, with these registers. */
void trace_leave(u64 rax, u64 rip, u64 rsp)
{
	u64 task = current();
	struct pending *p = task ? slot(task) : 0;

	if (!p)
		return;
	struct pending call = *p;
	__atomic_store_n(&p->task, 0, __ATOMIC_RELEASE);
	u64 nr = call.nr & 0xffff, cap = minimum(call.nr << 8 >> 24, ARGUMENT_MAX);
	u64 result = outcome(&call, rax, rip, rsp);
	struct pen pen = reserve(bound(call.spec, call.args, cap));
	if (!pen.start)
		return;
	struct record *record = begin(&pen, RECORD_LEAVE, nr, task);
	record->seq = call.seq;
	record->flags = call.nr >> 56;
	record->file = call.file;
	put(&pen, result);
	for (int i = 0; i < 6; i++) {
		u32 kind = kind_of(call.spec, i);
		if (!kind)
			continue;
		if (call.spec >> (32 + i) & 1)
			put_before(&pen, kind, i, call.args, cap);
		put_after(&pen, kind, i, call.args, cap, (s64)result);
	}
	publish(&pen);
	if (call.spec & SPEC_SYNC_LEAVE)
		sync();
}
#endif
