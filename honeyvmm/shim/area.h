/* What the shim and the VMM share: one window of memory per vcpu. `src/shim/area.rs` is the same in Rust; both sides assert the offsets.
 *
 * Window (offsets from the window's first byte, WINDOW_BYTES apart):
 *   0x00000 trampoline   the LSTAR/CSTAR targets. PVM: another page in the user's view than in the kernel's.
 *   0x01000 gate code    CPL 0 stubs (PVM)
 *   0x02000 IDT          PVM: another page in the user's view
 *   0x03000 TSS
 *   0x04000 gate data    struct gate: what the CPL 0 stubs need, in both views
 *   0x05000 CPL 0 stack
 *   0x10000 GDT          64 KiB; the guest's descriptors in the first pages, Xen's from 0xe000
 *   0x20000 shim code    kernel's view only
 *   0x30000 struct area  kernel's view only
 *   0x40000 stacks       kernel's view only
 *   0x4b000 trace        kernel's view only: struct trace, then the calls that have not returned
 *   0x80000 shared_info  kernel's view only
 *   0x100000 trace ring  kernel's view only, 1 MiB
 */
#ifndef AREA_H
#define AREA_H

#define WINDOW_BYTES      0x200000
#define WINDOW_TRAMPOLINE 0x00000
#define WINDOW_GATE_CODE  0x01000
#define WINDOW_GATE_DATA  0x04000
#define WINDOW_STACK0     0x05000
#define WINDOW_GDT        0x10000
#define WINDOW_CODE       0x20000
#define WINDOW_AREA       0x30000
#define WINDOW_STACKS     0x40000
#define WINDOW_TRACE      0x4b000
#define WINDOW_PENDING    0x4d000
#define WINDOW_PENDING_END 0x64000

/* Offsets inside the trampoline page. */
#define TRAMPOLINE_LSTAR 0x000
#define TRAMPOLINE_CSTAR 0x010
#define TRAMPOLINE_EXIT  0x040 /* PVM: where the fast way to the user changes views */

/* Selectors. The first three are Xen's flat ones. */
#define SEL_USER_CS32 0x23
#define SEL_USER_SS   0x2b
#define SEL_USER_CS   0x33
#define SEL_KERNEL_CS 0xe033
#define SEL_KERNEL_SS 0xe02b
#define SEL_SHIM_CS   0xe008
#define SEL_SHIM_SS   0xe010

/* struct area, for the entry code. */
#define AREA_REGS     0
#define AREA_NESTED   144
#define AREA_RAX      0
#define AREA_RSP      48
#define AREA_RIP      128
#define AREA_RFLAGS   136
#define AREA_EXIT_CS  288
#define AREA_EXIT_CR3 296
#define AREA_EXIT_FAST 304
#define AREA_VCPU_INFO 312
#define AREA_KERNEL_CR3 408
#define AREA_FLUSH_WANTED 8192
#define AREA_FLUSH_DONE 8200

/* struct gate, for the CPL 0 stubs. */
#define GATE_RAX       0
#define GATE_CR2       8
#define GATE_KCR3      16
#define GATE_EXIT_RAX  24
#define GATE_EXIT      32   /* rip cs rflags rsp ss */
#define GATE_USER      128  /* 33 frames of 40 bytes: entry from the user's view, by vector; the last is 0x80 */
#define GATE_KERNEL    2048 /* frames for entry from the kernel's view: #PF alone needs one */

#ifndef __ASSEMBLER__
typedef unsigned long u64;
typedef long s64;
typedef unsigned int u32;
typedef int s32;
typedef unsigned short u16;
typedef unsigned char u8;

struct regs { /* kvm_regs' order */
	u64 rax, rbx, rcx, rdx, rsi, rdi, rsp, rbp, r8, r9, r10, r11, r12, r13, r14, r15, rip, rflags;
};

struct trap_info { /* xen/arch-x86/xen.h */
	u8 vector, flags;
	u16 cs;
	u64 address;
};

#define CPUID_ANSWERS 64
struct cpuid_answer { u32 leaf, subleaf, known, eax, ebx, ecx, edx, pad; };

struct area {
	struct regs regs;         /*   0: the guest's registers while the shim runs */
	struct regs nested;       /* 144: the shim's own, while a fault of the shim is handled */
	u64 exit_cs;              /* 288 */
	u64 exit_cr3;             /* 296: 0: no CR3 load on the way out */
	u64 exit_fast;            /* 304: SYSRET will do (hardware backend), or the fast stub (PVM) */
	u64 vcpu_info;            /* 312: address of struct vcpu_info in the shim's physmap */
	u64 call[10];             /* 320: op, nr, six arguments, result */
	u64 kernel_mode;          /* 400 */
	u64 kernel_cr3;           /* 408 */
	u64 user_cr3;             /* 416 */
	u64 gs_kernel;            /* 424 */
	u64 gs_user;              /* 432 */
	u64 kernel_sp;            /* 440 */
	u64 user_cs;              /* 448 */
	u64 need_flush;           /* 456 */
	u64 current_cr3;          /* 464 */
	u64 callback_event;       /* 472 */
	u64 callback_failsafe;    /* 480 */
	u64 callback_syscall;     /* 488 */
	u64 callback_syscall32;   /* 496 */
	u64 callback_flags;       /* 504: bit n: callback type n masks events */
	u64 deadline;             /* 512: system time, ns; 0: none */
	u64 armed;                /* 520: the host timer's deadline; 0: not armed */
	u64 tsc_base;             /* 528 */
	u32 tsc_mul;              /* 536 */
	s32 tsc_shift;            /* 540 */
	u64 ram_bytes;            /* 544 */
	u64 shared_gpa;           /* 552: first of the frames that the guest may map beside its RAM */
	u64 shared_bytes;         /* 560 */
	u64 shared_info;          /* 568: its address in this window */
	u64 vcpus;                /* 576 */
	u64 me;                   /* 584 */
	u64 window;               /* 592: this window's first address */
	u64 fs_base;              /* 600: for the VMM to set, with set_bases */
	u64 gs_base;              /* 608 */
	u64 set_bases;            /* 616: bit 0: FS, bit 1: GS */
	u64 slots[3][2];          /* 624: L4 entries 257.. of the kernel's and the user's view */
	u64 counts[14];           /* 672 */
	u64 resume_trap;          /* 784: vector + 1 of a trap to deliver at resume; 0: none */
	u64 resume_error;         /* 792: its error code; all ones: it has none */
	struct trap_info traps[256]; /* 800 */
	struct cpuid_answer cpuid[CPUID_ANSWERS]; /* 4896: the shim's own */
	u64 pad[156];
	/* From here on other vcpus look too. */
	volatile u64 flush_wanted; /* 8192: how often others have asked for a flush */
	volatile u64 flush_done;   /* 8200: as far as this one has come */
	volatile u64 in_guest;     /* 8208: it may use a translation that others have changed; 0: it looks at flush_wanted before it goes on */
	u64 stale_at, stale_rip, stale_count; /* 8216: page faults for nothing, in a row */
};

struct vcpu_info { /* xen.h; volatile: the VMM's threads set it */
	u8 upcall_pending, upcall_mask, pad[6];
	u64 pending_selector, cr2, pad2;
};

struct frame { u64 rip, cs, rflags, rsp, ss; };

struct gate {
	u64 rax, cr2, kernel_cr3, exit_rax;
	struct frame exit;
	u64 pad[7];
	struct frame user[33];
	u8 pad2[GATE_KERNEL - GATE_USER - 33 * 40];
	struct frame kernel_pf;
};

#define OFFSET(field, value) _Static_assert(__builtin_offsetof(struct area, field) == (value), #field)
OFFSET(nested, AREA_NESTED); OFFSET(exit_cs, AREA_EXIT_CS); OFFSET(exit_cr3, AREA_EXIT_CR3); OFFSET(exit_fast, AREA_EXIT_FAST);
OFFSET(vcpu_info, AREA_VCPU_INFO); OFFSET(call, 320); OFFSET(kernel_mode, 400); OFFSET(kernel_cr3, AREA_KERNEL_CR3); OFFSET(callback_event, 472); OFFSET(deadline, 512);
OFFSET(ram_bytes, 544); OFFSET(window, 592); OFFSET(slots, 624); OFFSET(counts, 672); OFFSET(resume_trap, 784); OFFSET(traps, 800);
OFFSET(flush_wanted, AREA_FLUSH_WANTED); OFFSET(flush_done, AREA_FLUSH_DONE);
_Static_assert(__builtin_offsetof(struct gate, exit) == GATE_EXIT, "exit");
_Static_assert(__builtin_offsetof(struct gate, user) == GATE_USER, "user");
_Static_assert(__builtin_offsetof(struct gate, kernel_pf) == GATE_KERNEL, "kernel_pf");

/* area.call[0]: what the shim asks of the VMM. */
enum { CALL_HYPERCALL = 1, CALL_EXCEPTION = 2, CALL_TRACE = 3, CALL_FLUSH = 4, CALL_BROKEN = 9 };

/* area.counts. */
enum { COUNT_ENTRIES, COUNT_SYSCALLS, COUNT_HYPERCALLS, COUNT_PAGE_FAULTS, COUNT_UPCALLS, COUNT_FLUSHES, COUNT_USER_BITS, COUNT_NESTED,
       COUNT_TIMER_SKIPS, COUNT_CALLS, COUNT_EXCEPTIONS };

/* The way in and out, by backend: entry_pvm.S, entry_hw.S. */
extern struct area area __attribute__((visibility("hidden")));
extern struct gate gate __attribute__((visibility("hidden")));
extern u16 idt[] __attribute__((visibility("hidden")));
extern char gate_exit[], gate_exit_fast[] __attribute__((visibility("hidden")));
extern u64 stack0_top[] __attribute__((visibility("hidden")));
void vmm_call(void) __attribute__((visibility("hidden")));
/* 0, or the bytes that were not copied because the guest's address faulted. */
int guest_copy(void *to, const void *from, u64 n) __attribute__((visibility("hidden")));
extern char guest_copy_insn[] __attribute__((visibility("hidden")));
extern char guest_copy_fault[] __attribute__((visibility("hidden")));
extern char shim_text_start[] __attribute__((visibility("hidden")));
extern char shim_text_end[] __attribute__((visibility("hidden")));
#endif
#endif
