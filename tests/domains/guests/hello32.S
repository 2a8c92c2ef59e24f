/* A program of 32 bits, without libc: int $0x80, then the vdso's own way in (SYSENTER or SYSCALL where the kernel offers them). */
	.code32
	.globl _start
_start:
	mov %esp, %ebx
	/* auxiliary vector: past argc, arguments, environment */
	lea 4(%esp), %esi
	xor %ecx, %ecx
1:	lodsl
	test %eax, %eax
	jnz 1b
2:	lodsl
	test %eax, %eax
	jnz 2b
3:	lodsl
	test %eax, %eax
	jz 4f
	cmp $32, %eax        /* AT_SYSINFO */
	jne 5f
	mov (%esi), %ebp
	mov %ebp, entry
5:	add $4, %esi
	jmp 3b
4:	mov $4, %eax         /* write */
	mov $1, %ebx
	mov $first, %ecx
	mov $first_bytes, %edx
	int $0x80
	cmpl $0, entry
	je 6f
	mov $4, %eax
	mov $1, %ebx
	mov $second, %ecx
	mov $second_bytes, %edx
	call *entry
6:	mov $1, %eax         /* exit */
	xor %ebx, %ebx
	int $0x80
	.data
entry:	.long 0
first:	.ascii "32 BITS BY INT 80\n"
	.set first_bytes, . - first
second:	.ascii "32 BITS BY THE VDSO\n"
	.set second_bytes, . - second
