/* The system-call trace: what the shim and who reads it share. `src/shim/trace.rs` is the same in Rust; both sides assert the offsets.
 * All of it lies in the guest kernel's reach: the shim takes from here only what cannot hurt it, and its reader trusts nothing. */
#ifndef TRACE_H
#define TRACE_H
#include "area.h"

#define TRACE_CALLS 512
#define TRACE_FILES 15
#define TRACE_PENDING 1024
#define RING_BYTES (1ul << 20)
/* The longest record, and what one argument may take of it. */
#define RECORD_MAX (RING_BYTES / 4)
#define ARGUMENT_MAX (RING_BYTES / 8)

/* What of a call is written: a word a call number. Bits 8.. hold four bits an argument. */
#define SPEC_RECORD      1
#define SPEC_SYNC_ENTER  2   /* the observer has seen it before the call begins: a file that is written may vanish by it */
#define SPEC_SYNC_LEAVE  4   /* and before the task goes on */
#define SPEC_FILE        8   /* argument 0 is a descriptor: its file decides how much is kept */
#define SPEC_KNOWN_FILE  16  /* with SPEC_FILE: nothing is written unless the file is one of `files` */
#define SPEC_NO_RETURN   32
#define SPEC_SECOND      128 /* with SPEC_FILE: argument 1 is the descriptor */
#define SPEC_WRITTEN     64  /* with SPEC_FILE: only where it is a regular file that is open for writing */
enum { ARG_VALUE, ARG_STRING, ARG_IN, ARG_OUT, ARG_SOCKADDR_IN, ARG_SOCKADDR_OUT, ARG_VECTOR_IN, ARG_VECTOR_OUT, ARG_MESSAGE_IN,
       ARG_MESSAGE_OUT, ARG_STRINGS, ARG_IN_16, ARG_OUT_16, ARG_OUT_144 };

/* Offsets in the guest's structures, from its BTF. */
enum { AT_TASK_PID, AT_TASK_TGID, AT_TASK_COMM, AT_TASK_CRED, AT_CRED_UID, AT_TASK_FILES, AT_FILES_FDT, AT_FDT_MAX_FDS, AT_FDT_FD, AT_FILE_OP,
       AT_FILE_MODE, AT_FILE_PRIVATE, AT_SOCKET_OPS, AT_FILE_INODE, AT_INODE_MODE, AT_COUNT };

struct trace {
	volatile u64 armed;     /*   0: not 0: calls are looked at */
	volatile u64 head;      /*   8: bytes written since the start; the reader's end */
	volatile u64 lost;      /*  16: records that found no room */
	u64 seq;                /*  24: of the last record */
	volatile u64 belled;    /*  32: the bell was rung; the reader clears it */
	u64 drop;               /*  40: not 0: a full ring loses records rather than slow the guest */
	u64 current;            /*  48: offset of the current task's pointer from the kernel's GS base */
	u64 cap;                /*  56: bytes kept of an argument, unless its file says otherwise */
	volatile u64 tail;      /*  64: bytes read since the start: the reader's */
	u64 sockets;            /*  72: the operations of every socket's file: its socket's own tell the kind */
	u64 pad[2];
	u32 at[16];             /*  96 */
	struct { u64 operations, cap; } files[TRACE_FILES + 1]; /* 160: what is kept of files with these operations; address 0 ends the list */
	u32 spec[2][TRACE_CALLS]; /* 416: 64-bit calls, 32-bit calls */
};

/* Of seq: the vcpu on which a call began. */
#define SEQ_VCPU_SHIFT 56
/* A record's head. Records follow each other at multiples of eight; none wraps around: RECORD_PAD fills the ring's end. */
enum { RECORD_PAD, RECORD_ENTER, RECORD_LEAVE };
#define RECORD_COMPAT 1
#define RECORD_FILE_SHIFT 4 /* of flags: 1 + the place in `files` of argument 0's file, or 0 */
struct record {
	u32 bytes;
	u8 kind, flags;
	u16 nr;
	u64 time;     /* system time, ns */
	u64 seq;      /* of a leave: that of its enter, perhaps on another vcpu */
	u64 task;
	u32 pid, tgid, uid, vcpu;
	char comm[16];
	u64 file;     /* the open file of argument 0, or 0; what dup(2) made has the same */
	/* then: six arguments, or the result; then chunks */
};

/* What an argument names. */
#define CHUNK_CUT    1 /* there is more than was kept */
#define CHUNK_FAULT  2 /* it could not be read without a fault */
struct chunk {
	u8 arg, flags;
	u16 index;    /* in a vector */
	u32 bytes;    /* that follow, padded to a multiple of eight */
	u64 length;   /* that the call speaks of */
};

/* spec: also the arguments that faulted from bit 32, and from PENDING_RIP the low bits of where the call returns to: enough to tell that from a
 * restart and from a handler. nr: also the cap, and the flags of the record in the highest byte. */
#define PENDING_RIP 40
struct pending { u64 task, seq, spec, nr, file, args[6]; };

_Static_assert(__builtin_offsetof(struct trace, tail) == 64 && __builtin_offsetof(struct trace, at) == 96, "trace");
_Static_assert(__builtin_offsetof(struct trace, files) == 160 && __builtin_offsetof(struct trace, spec) == 416, "trace");
_Static_assert(sizeof(struct record) == 72 && sizeof(struct chunk) == 16, "record");
_Static_assert(sizeof(struct pending) * TRACE_PENDING <= WINDOW_PENDING_END - WINDOW_PENDING, "pending");
_Static_assert(sizeof(struct trace) <= WINDOW_PENDING - WINDOW_TRACE, "trace");

extern struct trace trace __attribute__((visibility("hidden")));
extern struct pending trace_pending[TRACE_PENDING] __attribute__((visibility("hidden")));
extern u8 trace_ring[RING_BYTES] __attribute__((visibility("hidden")));
#endif
