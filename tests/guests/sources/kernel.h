/* What the parts of the hostile kernel share: hypercalls, words on the early console, frames mapped at will. */
typedef unsigned long u64;
typedef unsigned int u32;
typedef unsigned short u16;

#define VIRT_BASE 0xffffffff80000000ul
#define PAGE 4096ul
#define SHIM_GPA (1ul << 38)

enum { SET_TRAP_TABLE, MMU_UPDATE, SET_GDT, STACK_SWITCH, PLATFORM = 7, SET_DEBUGREG, GET_DEBUGREG, UPDATE_DESCRIPTOR, MEMORY = 12,
       MULTICALL, UPDATE_VA, SET_TIMER, XEN_VERSION = 17, CONSOLE_IO, GRANT_TABLE = 20, VCPU_OP = 24, SEGMENT_BASE, MMUEXT, SCHED = 29, CALLBACK,
       EVENT_CHANNEL = 32, PHYSDEV };

struct start_info { /* xen.h */
	char magic[32];
	u64 pages, shared_info;
	u32 flags, pad0;
	u64 store_mfn;
	u32 store_port, pad1;
	u64 console_mfn;
	u32 console_port, pad2;
	u64 pt_base, table_count, mfn_list, mod_start, mod_bytes;
	char cmdline[1024];
};
extern struct start_info *info;

long call(u64 nr, u64 a, u64 b, u64 c, u64 d);
u64 length(const char *text);
void say(const char *text);
void report(const char *name, long value);
void notify(u32 port);
/* Maps any frame at an address of ours, which must be that of a page. */
void map_at(void *at, u64 gpa);

/* vcpus.c */
void vcpu_calls(void);
void vcpus_flush(void);
void vcpus_down(void);
void vcpus_spin(void);
void vcpus_up_and_down(void);
void vcpus_shutdown(void);
void vcpu_nowhere(void);
void vcpu_tables_of_nothing(void);
void vcpu_tables_of_garbage(void);
void vcpus_forge_flushes(void);

/* devices.c */
void disk(void);
void network(void);
