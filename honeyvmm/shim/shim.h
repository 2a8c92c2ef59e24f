/* The shim's own parts: traps.c (in and out), mmu.c (page tables), hypercall.c (which calls are answered here), privileged.c (which instructions). */
#ifndef SHIM_H
#define SHIM_H
#include "area.h"

#define XEN_EFAULT 14
#define XEN_EINVAL 22
#define XEN_ENOENT 2
#define XEN_ENOSYS 38
#define VCPUS_MAX 8ul

#define PTE_PRESENT 1ul
#define PTE_WRITE   2ul
#define PTE_USER    4ul
#define PTE_HUGE    0x80ul
#define PTE_NX      (1ul << 63)
#define PTE_FRAME   0x000ffffffffff000ul
#define L4_SLOT_FIRST 257 /* window, machine-to-phys table, physmap */
#define L4_SLOTS 3
#define PHYSMAP 0xffff818000000000ul

#define count(what) (area.counts[what]++)

#pragma GCC visibility push(hidden)
static inline volatile struct vcpu_info *vcpu_info(void) { return (volatile struct vcpu_info *)area.vcpu_info; }
static inline volatile u64 *phys(u64 gpa) { return (volatile u64 *)(PHYSMAP + gpa); }

/* Xen reserves L4 slots 256..271 for the hypervisor; no guest pointer may lie there. */
static inline int guest_range_ok(u64 at, u64 bytes)
{
	return at + bytes >= at && (at + bytes <= 0xffff800000000000ul || at >= 0xffff880000000000ul);
}
static inline int copy_in(void *to, u64 from, u64 bytes)
{
	return !guest_range_ok(from, bytes) || guest_copy(to, (const void *)from, bytes);
}
static inline int copy_out(u64 to, const void *from, u64 bytes)
{
	return !guest_range_ok(to, bytes) || guest_copy((void *)to, from, bytes);
}
/* Another vcpu's area: windows follow each other. */
static inline struct area *area_of(u64 vcpu) { return (struct area *)((u64)&area + (vcpu - area.me) * WINDOW_BYTES); }
static inline u64 read_gs(void) { u64 v; __asm__ volatile("rdgsbase %0" : "=r"(v)); return v; }
static inline void write_gs(u64 v) { __asm__ volatile("wrgsbase %0" :: "r"(v)); }
static inline void write_fs(u64 v) { __asm__ volatile("wrfsbase %0" :: "r"(v)); }
static inline int canonical(u64 at) { return (u64)(((s64)at << 16) >> 16) == at; }

u64 system_time(void);
long call_vmm(u64 op, u64 nr, const u64 *args);
void bounce(u64 address, int mask_events, int has_error, u64 error);
long hypercall(u64 nr, const u64 *args);
int emulate_privileged(void);
struct cpuid_answer *cpuid_slot(void);
int cpuid_known(const struct cpuid_answer *slot);
void cpuid_keep(struct cpuid_answer *slot);
int add_user_bits(u64 at, u64 error);
long mmu_update(u64 requests, u64 n, u64 done);
long update_va_mapping(u64 at, u64 value, u64 flags);
#ifndef WITHOUT_TRACE
void trace_enter(int compat);
void trace_leave(u64 rax, u64 rip, u64 rsp);
#endif
void flush_vcpus(u64 mask);
long mmuext_op(u64 ops, u64 n, u64 done, u64 domid);
#pragma GCC visibility pop
#endif
