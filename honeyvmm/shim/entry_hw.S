/* The way in and out where KVM runs on VT-x or SVM: the shim is at CPL 0, SYSCALL and exceptions arrive there by themselves. */
#include "area.h"
#include "registers.inc"

	.section .trampoline, "ax"
	jmp syscall_entry
	.org TRAMPOLINE_CSTAR
	jmp syscall32_entry

	.section .gate, "ax"
	hlt

	.text
.globl shim_text_start, shim_text_end, vmm_call, entries, irq_entry, resume, restore
.hidden shim_text_start, shim_text_end, vmm_call
shim_text_start:
GUEST_COPY

/* KVM completes the port access by moving rip on: nothing is written back. */
vmm_call:
	out %al, $0x10
	ret

syscall_entry:
	mov %rax, area+AREA_RAX(%rip)
	SAVE_BUT_RAX 0
	mov %rsp, area+AREA_RSP(%rip)
	lea main_top(%rip), %rsp
	call c_syscall
	call c_out
	cmpq $0, area+AREA_EXIT_FAST(%rip)
	jne fast
	jmp slow
/* After an exception always by IRETQ: SYSRET would leave what SS holds besides its selector (AMD). */
restore:
	call c_out
slow:	push $SEL_USER_SS
	pushq area+AREA_RSP(%rip)
	pushq area+AREA_RFLAGS(%rip)
	pushq area+AREA_EXIT_CS(%rip)
	pushq area+AREA_RIP(%rip)
	LOAD 0
	iretq
fast:	LOAD 0
	mov area+AREA_RSP(%rip), %rsp
	sysretq
syscall32_entry:
	mov %rax, area+AREA_RAX(%rip)
	SAVE_BUT_RAX 0
	mov %rsp, area+AREA_RSP(%rip)
	lea main_top(%rip), %rsp
	mov $1, %edi
	call c_syscall_user
	jmp restore

resume:
	call c_resume
	jmp restore

	.balign 16
entries:
	.set vector, 0
	.rept 33
	.balign 16
	PUSH_ERROR vector
	.if vector == 32
	push $0x80
	.else
	push $vector
	.endif
	jmp common
	.set vector, vector+1
	.endr
common:
	testb $3, 24(%rsp)
	je nested
	mov %rax, area+AREA_RAX(%rip)
	SAVE_BUT_RAX 0
	cmpq $14, (%rsp)
	jne 1f
	mov %cr2, %rax
	mov %rax, gate+GATE_CR2(%rip)
1:	mov %rsp, %rdi
	lea main_top(%rip), %rsp
	call c_trap
	jmp restore
nested:
	mov %rax, area+AREA_NESTED(%rip)
	SAVE_BUT_RAX AREA_NESTED
	mov %cr2, %rax
	mov %rax, gate+GATE_CR2(%rip)
	mov %rsp, %rdi
	mov %rsp, %rbx
	and $-16, %rsp
	call c_trap_nested
	mov %rbx, %rsp
	LOAD AREA_NESTED
	add $16, %rsp
	iretq

/* The VMM injected its vector: look for events on the way out. */
irq_entry:
	push $0
	push $0xf0
	mov %rax, area+AREA_RAX(%rip)
	SAVE_BUT_RAX 0
	mov %rsp, %rdi
	lea main_top(%rip), %rsp
	call c_interrupt
	jmp restore

STACKS
