/* Privileged instructions of the guest kernel that are hot, done without leaving the guest; all others are the VMM's (src/emulate.rs). */
#include "shim.h"

#define MSR_KERNEL_GS_BASE 0xc0000102u
#define CPUID_BYTES 7 /* ud2; .ascii "xen"; cpuid */

/* in and out by dx, after an 0x66 perhaps. There are no devices: all bits are ones. */
static int emulate_port(const u8 *code, u64 bytes)
{
	u64 ones = code[0] == 0xec ? 0xff : bytes == 2 ? 0xffff : 0xffffffff;

	if ((code[0] & 0xfc) != 0xec)
		return 0;
	if (code[0] < 0xee) /* what is read into eax clears the rest of rax, what is read into al or ax does not */
		area.regs.rax = ones == 0xffffffff ? ones : area.regs.rax | ones;
	area.regs.rip += bytes;
	return 1;
}

/* What a #GP of the guest kernel most often is: one rdmsr(MSR_KERNEL_GS_BASE) a context switch, cli before alternatives run, and the search
 * for a PCI bus and serial ports. */
int emulate_privileged(void)
{
	u8 code[2];

	if (!area.kernel_mode || copy_in(code, area.regs.rip, 2))
		return 0;
	if (code[0] == 0x0f && code[1] == 0x32 && (u32)area.regs.rcx == MSR_KERNEL_GS_BASE) {
		area.regs.rax = (u32)area.gs_user;
		area.regs.rdx = area.gs_user >> 32;
		area.regs.rip += 2;
		return 1;
	}
	if (code[0] == 0xfa) {
		area.regs.rip += 1;
		return 1;
	}
	return code[0] == 0x66 ? emulate_port(code + 1, 2) : emulate_port(code, 1);
}

/* Where the answer to the CPUID that rip points at is kept; 0: it points at something else. A kernel asks the same few leaves 500 times at boot. */
struct cpuid_answer *cpuid_slot(void)
{
	u8 code[CPUID_BYTES];
	u32 leaf = area.regs.rax, subleaf = area.regs.rcx;

	if (copy_in(code, area.regs.rip, sizeof code))
		return 0;
	for (u64 i = 0; i < sizeof code; i++)
		if (code[i] != (u8)"\x0f\x0bxen\x0f\xa2"[i])
			return 0;
	struct cpuid_answer *slot = &area.cpuid[(leaf + (leaf >> 26) + 5 * subleaf) % CPUID_ANSWERS];
	if (!slot->known || slot->leaf != leaf || slot->subleaf != subleaf)
		*slot = (struct cpuid_answer){ .leaf = leaf, .subleaf = subleaf };
	return slot;
}

int cpuid_known(const struct cpuid_answer *slot)
{
	if (!slot->known)
		return 0;
	area.regs.rax = slot->eax;
	area.regs.rbx = slot->ebx;
	area.regs.rcx = slot->ecx;
	area.regs.rdx = slot->edx;
	area.regs.rip += CPUID_BYTES;
	return 1;
}

/* The VMM has just answered. */
void cpuid_keep(struct cpuid_answer *slot)
{
	slot->eax = area.regs.rax;
	slot->ebx = area.regs.rbx;
	slot->ecx = area.regs.rcx;
	slot->edx = area.regs.rdx;
	slot->known = 1;
}
