/* Which hypercalls are answered here, without leaving the guest: the hot ones. All others go to the VMM (src/hypercall/). */
#include "shim.h"

enum { H_MMU_UPDATE = 1, H_STACK_SWITCH = 3, H_FPU_TASKSWITCH = 5, H_MULTICALL = 13, H_UPDATE_VA_MAPPING = 14, H_XEN_VERSION = 17,
       H_VCPU_OP = 24, H_SET_SEGMENT_BASE = 25, H_MMUEXT_OP = 26, H_SCHED_OP = 29, H_EVENT_CHANNEL_OP = 32 };
#define MULTICALL_MAX 4096ul

static long multicall(u64 list, u64 n)
{
	u64 call[8]; /* op, result, six arguments */

	if (n > MULTICALL_MAX)
		return -XEN_EINVAL;
	for (u64 i = 0; i < n; i++, list += sizeof call) {
		if (copy_in(call, list, sizeof call))
			return -XEN_EFAULT;
		/* A multicall in a multicall is refused, as Xen does: it would recurse on our stack. */
		call[1] = call[0] == H_MULTICALL ? -XEN_EINVAL : hypercall(call[0], call + 2);
		if (copy_out(list + 8, &call[1], 8))
			return -XEN_EFAULT;
	}
	return 0;
}

static long set_segment_base(u64 which, u64 base)
{
	if (which < 3 && !canonical(base))
		return -XEN_EINVAL;
	switch (which) {
	case 0: write_fs(base); return 0;
	case 1: area.gs_user = base; return 0;
	case 2: area.gs_kernel = base; write_gs(base); return 0;
	case 3: area.gs_user = 0; return 0; /* a selector: what it selects in a 64-bit kernel has base 0 */
	default: return -XEN_EINVAL;
	}
}

static long vcpu_op(const u64 *args)
{
	u64 deadline, now;

	/* Another vcpu's timer, or none's: the VMM knows the error. */
	if (args[1] != area.me && args[0] != 3)
		return call_vmm(CALL_HYPERCALL, H_VCPU_OP, args);
	switch (args[0]) {
	case 3: /* is_up: asked NR_CPUS times at boot */
		if (args[1] >= area.vcpus)
			return -XEN_ENOENT;
		return args[1] == area.me ? 1 : call_vmm(CALL_HYPERCALL, H_VCPU_OP, args);
	case 6: case 7: /* the periodic timer is stopped; it never ran */
		return args[0] == 7 ? 0 : call_vmm(CALL_HYPERCALL, H_VCPU_OP, args);
	case 9: /* stop_singleshot_timer */
		area.deadline = 0;
		return 0;
	case 8: /* set_singleshot_timer */
		if (copy_in(&deadline, args[2], 8))
			return -XEN_EFAULT;
		area.deadline = deadline ? deadline : 1;
		now = system_time();
		/* The host's timer will ring earlier anyway, and the VMM looks at the deadline then. */
		if (area.armed && area.armed <= deadline && area.armed > now) {
			count(COUNT_TIMER_SKIPS);
			return 0;
		}
		return call_vmm(CALL_HYPERCALL, H_VCPU_OP, args);
	default:
		return call_vmm(CALL_HYPERCALL, H_VCPU_OP, args);
	}
}

/* EVTCHNOP_unmask, for a port of this vcpu's: the same words and order as Xen's evtchn_unmask. */
static long unmask(u64 at)
{
	u32 port;

	if (copy_in(&port, at, 4))
		return -XEN_EFAULT;
	if (port >= 4096)
		return -XEN_EINVAL;
	volatile u64 *pending = (u64 *)(area.shared_info + 32 * 64), *mask = pending + 64;
	u64 bit = 1ul << (port & 63);
	__atomic_and_fetch(&mask[port >> 6], ~bit, __ATOMIC_SEQ_CST);
	if (pending[port >> 6] & bit) {
		__atomic_or_fetch(&vcpu_info()->pending_selector, 1ul << (port >> 6), __ATOMIC_SEQ_CST);
		vcpu_info()->upcall_pending = 1;
	}
	return 0;
}

long hypercall(u64 nr, const u64 *args)
{
	switch (nr) {
	case H_MMU_UPDATE:
		return mmu_update(args[0], args[1], args[2]);
	case H_STACK_SWITCH:
		area.kernel_sp = args[1];
		return 0;
	case H_FPU_TASKSWITCH: /* CR0.TS is a hint of lazy FPU kernels; ours restore eagerly */
		return 0;
	case H_MULTICALL:
		return multicall(args[0], args[1]);
	case H_UPDATE_VA_MAPPING:
		return update_va_mapping(args[0], args[1], args[2]);
	case H_XEN_VERSION:
		/* Subop 0 is also how the guest asks for an upcall that it had masked. */
		return args[0] == 0 ? 0x4000f : call_vmm(CALL_HYPERCALL, nr, args);
	case H_VCPU_OP:
		return vcpu_op(args);
	case H_SET_SEGMENT_BASE:
		return set_segment_base(args[0], args[1]);
	case H_MMUEXT_OP:
		return mmuext_op(args[0], args[1], args[2], args[3]);
	case H_SCHED_OP:
		if (args[0] == 0 && area.vcpus == 1)
			return 0; /* yield: to whom? */
		if (args[0] == 1) { /* block */
			vcpu_info()->upcall_mask = 0;
			if (vcpu_info()->upcall_pending)
				return 0;
		}
		return call_vmm(CALL_HYPERCALL, nr, args);
	case H_EVENT_CHANNEL_OP:
		return args[0] == 9 && area.vcpus == 1 ? unmask(args[1]) : call_vmm(CALL_HYPERCALL, nr, args);
	default:
		return call_vmm(CALL_HYPERCALL, nr, args);
	}
}
