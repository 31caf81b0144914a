/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Opening a target file: is it one, what kind, which build-id. Reading and finding sections is
 * libelf's work; what it does not check (segments beyond the end of the file, wrong kinds of file)
 * is checked here once. Symbols, relocations and debug files are in the files next to this one.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/cleanup.h"
#include "elf/image_private.h"
#include "elf/note.h"

enum { PHDRS_MAX = 512, STRING_MAX = 4096 };

/* ---- the file ---- */

static struct suture_error *check_type(uint16_t type)
{
	switch (type) {
	case ET_EXEC:
	case ET_DYN:
		return NULL;
	case ET_REL:
		return image_bad("a relocatable object; the linked program or library is needed");
	case ET_CORE:
		return image_bad("a core dump; the program or library itself is needed");
	default:
		return image_bad("an ELF file of unknown type %u", type);
	}
}

struct suture_error *image_check_header(const Elf64_Ehdr *e, size_t have)
{
	if (have < SELFMAG || memcmp(e->e_ident, ELFMAG, SELFMAG) != 0)
		return image_bad("not an ELF file");
	if (have > EI_CLASS && e->e_ident[EI_CLASS] == ELFCLASS32)
		return error_create(SUTURE_ERROR_UNSUPPORTED,
			"a 32-bit ELF file; only 64-bit x86 is supported");
	if (have < sizeof(*e))
		return image_bad("truncated in the ELF header");
	if (e->e_ident[EI_CLASS] != ELFCLASS64 || e->e_ident[EI_VERSION] != EV_CURRENT)
		return image_bad("malformed ELF header");
	if (e->e_ident[EI_DATA] != ELFDATA2LSB || e->e_machine != EM_X86_64)
		return error_create(SUTURE_ERROR_UNSUPPORTED,
			"an ELF file for machine %u; only x86-64 is supported", e->e_machine);
	return check_type(e->e_type);
}

static struct suture_error *check_tables(const Elf64_Ehdr *e, uint64_t size)
{
	if (e->e_phoff == 0 || e->e_phnum == 0)
		return image_bad("no program headers");
	if (e->e_phentsize != sizeof(Elf64_Phdr) || e->e_phnum > PHDRS_MAX)
		return image_bad("malformed program headers");
	if (e->e_phoff > size || e->e_phnum * sizeof(Elf64_Phdr) > size - e->e_phoff)
		return image_bad("truncated: program headers behind the end of the file");
	if (e->e_shoff == 0)
		return error_create(SUTURE_ERROR_UNSUPPORTED, "no section headers");
	if (e->e_shentsize != sizeof(Elf64_Shdr))
		return image_bad("malformed section headers");
	if (e->e_shoff > size || e->e_shnum * sizeof(Elf64_Shdr) > size - e->e_shoff)
		return image_bad("truncated: section headers behind the end of the file");
	return NULL;
}

static struct suture_error *check_file(int fd)
{
	Elf64_Ehdr ehdr = {};
	struct stat st;

	if (fstat(fd, &st) < 0)
		return error_errno(errno, "stat");
	if (!S_ISREG(st.st_mode))
		return image_bad("not a regular file");
	ssize_t n = pread(fd, &ehdr, sizeof(ehdr), 0);
	if (n < 0)
		return error_errno(errno, "read");
	TRY(image_check_header(&ehdr, n));
	return check_tables(&ehdr, st.st_size);
}

struct suture_error *image_open_elf(const char *path, int *ret_fd, Elf **ret)
{
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);

	if (fd < 0)
		return error_errno(errno, "open");
	TRY(check_file(fd));
	elf_version(EV_CURRENT);
	Elf *elf = elf_begin(fd, ELF_C_READ_MMAP, NULL);
	if (!elf || elf_kind(elf) != ELF_K_ELF) {
		elf_end(elf);
		return image_bad("not readable as ELF: %s", elf_errmsg(-1));
	}
	*ret = elf;
	*ret_fd = fd;
	fd = -1;
	return NULL;
}

Elf_Scn *image_section(Elf *elf, uint32_t type, Elf64_Shdr *ret)
{
	for (Elf_Scn *scn = NULL; (scn = elf_nextscn(elf, scn));) {
		GElf_Shdr sh;

		if (gelf_getshdr(scn, &sh) && sh.sh_type == type) {
			*ret = sh;
			return scn;
		}
	}
	return NULL;
}

/* ---- segments ---- */

static struct suture_error *check_segment(const struct image *image, size_t i, const Elf64_Phdr *ph)
{
	uint64_t size = image_private(image)->size;

	if (ph->p_type == PT_LOAD &&
		(ph->p_filesz > ph->p_memsz || ph->p_vaddr + ph->p_memsz < ph->p_vaddr))
		return image_bad("malformed segment %zu", i);
	if (ph->p_type != PT_GNU_STACK &&
		(ph->p_offset > size || ph->p_filesz > size - ph->p_offset))
		return image_bad("truncated: segment %zu reaches behind the end of the file", i);
	return NULL;
}

static struct suture_error *read_segments(struct image *image)
{
	size_t n;

	if (elf_getphdrnum(image->elf, &n) < 0 || n > PHDRS_MAX)
		return image_bad("program headers: %s", elf_errmsg(-1));
	for (size_t i = 0; i < n; i++) {
		GElf_Phdr ph;

		if (!gelf_getphdr(image->elf, i, &ph))
			return image_bad("program headers: %s", elf_errmsg(-1));
		TRY(check_segment(image, i, &ph));
		if (ph.p_type == PT_TLS) {
			image->tls_vaddr = ph.p_vaddr;
			image->tls_size = ph.p_memsz;
			image->tls_align = ph.p_align;
		}
		if (!vec_push(&image->phdrs, ph))
			return error_nomem();
	}
	return NULL;
}

static void read_build_id(struct image *image)
{
	vec_foreach (ph, &image->phdrs)
		if (ph->p_type == PT_NOTE &&
			note_find_build_id(image_private(image)->bytes + ph->p_offset, ph->p_filesz,
				ph->p_align, image->build_id, &image->build_id_size))
			return;
}

/* What strip leaves in a debug file: the code's headers without the code. */
static bool is_debug_file(Elf *elf)
{
	for (Elf_Scn *scn = NULL; (scn = elf_nextscn(elf, scn));) {
		GElf_Shdr sh;

		if (gelf_getshdr(scn, &sh) && sh.sh_type == SHT_NOBITS &&
			(sh.sh_flags & SHF_EXECINSTR))
			return true;
	}
	return false;
}

const uint8_t *image_bytes(
	const struct image *image, uint64_t address, uint32_t flags, size_t *ret_size)
{
	vec_foreach (ph, &image->phdrs) {
		if (ph->p_type != PT_LOAD || (ph->p_flags & flags) != flags ||
			address < ph->p_vaddr || address - ph->p_vaddr >= ph->p_filesz)
			continue;
		*ret_size = ph->p_filesz - (address - ph->p_vaddr);
		return image_private(image)->bytes + ph->p_offset + (address - ph->p_vaddr);
	}
	*ret_size = 0;
	return NULL;
}

struct suture_error *image_read(const struct image *image, uint64_t address, void *buf, size_t len)
{
	size_t have;
	const uint8_t *bytes = image_bytes(image, address, 0, &have);

	if (!bytes || have < len)
		return image_bad("%s: the file has no %zu bytes for address 0x%llx", image->path,
			len, (unsigned long long)address);
	memcpy(buf, bytes, len);
	return NULL;
}

/* ---- the dynamic section ---- */

struct dynamic {
	uint64_t strtab, soname;
	bool has_soname, needs;
};

static void dynamic_entry(struct image *image, struct dynamic *d, const Elf64_Dyn *entry)
{
	switch (entry->d_tag) {
	case DT_STRTAB:
		d->strtab = entry->d_un.d_ptr;
		break;
	case DT_SONAME:
		d->soname = entry->d_un.d_val;
		d->has_soname = true;
		break;
	case DT_NEEDED:
		d->needs = true;
		break;
	case DT_SYMBOLIC:
		image->symbolic = true;
		break;
	case DT_FLAGS:
		image->symbolic |= (entry->d_un.d_val & DF_SYMBOLIC) != 0;
		break;
	case DT_FLAGS_1:
		image_private(image)->pie = (entry->d_un.d_val & DF_1_PIE) != 0;
		break;
	}
}

static void read_dynamic(struct image *image, struct dynamic *d)
{
	vec_foreach (ph, &image->phdrs) {
		if (ph->p_type != PT_DYNAMIC)
			continue;
		for (uint64_t at = 0; ph->p_filesz - at >= sizeof(Elf64_Dyn);
			at += sizeof(Elf64_Dyn)) {
			Elf64_Dyn entry;

			memcpy(&entry, image_private(image)->bytes + ph->p_offset + at,
				sizeof(entry));
			if (entry.d_tag == DT_NULL)
				break;
			dynamic_entry(image, d, &entry);
		}
		break;
	}
}

static bool has_segment(const struct image *image, uint32_t type)
{
	vec_foreach (ph, &image->phdrs)
		if (ph->p_type == type)
			return true;
	return false;
}

static struct suture_error *name_image(struct image *image, const struct dynamic *d)
{
	const char *slash = strrchr(image->path, '/');
	const char *name = slash ? slash + 1 : image->path;

	if (d->has_soname) {
		size_t have;

		name = (const char *)image_bytes(image, d->strtab + d->soname, 0, &have);
		if (have > STRING_MAX)
			have = STRING_MAX;
		if (!name || !memchr(name, '\0', have))
			return image_bad("malformed DT_SONAME");
	}
	image->name = strdup(name);
	return image->name ? NULL : error_nomem();
}

static struct suture_error *classify(struct image *image)
{
	bool interp = has_segment(image, PT_INTERP);
	struct dynamic d = {};

	read_dynamic(image, &d);
	image->is_library =
		image->type == ET_DYN && !image_private(image)->pie && (d.has_soname || !interp);
	image->is_static = !interp && !d.needs && !image->is_library;
	return name_image(image, &d);
}

/* ---- opening ---- */

static struct suture_error *fill(struct image *image, const char *debug_dir)
{
	struct image_private *p = image_private(image);

	TRY(image_open_elf(image->path, &p->fd, &image->elf));
	p->bytes = (const uint8_t *)elf_rawfile(image->elf, &p->size);
	if (!p->bytes)
		return image_bad("%s", elf_errmsg(-1));
	image->debug_elf = image->elf;
	image->type = elf64_getehdr(image->elf)->e_type;
	if (is_debug_file(image->elf))
		return image_bad("a separate debug file; the file that runs is needed");
	TRY(read_segments(image));
	read_build_id(image);
	TRY(classify(image));
	TRY(image_read_symbols(image, image->elf));
	TRY(image_read_dynsyms(image));
	TRY(image_read_relocs(image));
	image->dwarf = image_dwarf(image->elf);
	if (image->symbols.n == 0 || !image->dwarf)
		TRY(image_find_debug(image, debug_dir));
	return image_index_symbols(image);
}

struct suture_error *image_open_with(const char *path, const char *debug_dir, struct image **ret)
{
	_cleanup_(image_closep) struct image *image = calloc(1, sizeof(*image));

	if (!image)
		return error_nomem();
	image->private_ = calloc(1, sizeof(struct image_private));
	if (!image->private_)
		return error_nomem();
	image_private(image)->fd = image_private(image)->debug_fd = -1;
	image->path = strdup(path);
	if (!image->path)
		return error_nomem();
	TRY(error_wrap(fill(image, debug_dir), "%s", path));
	*ret = take(image);
	return NULL;
}

struct suture_error *image_open(const char *path, struct image **ret)
{
	return image_open_with(path, getenv("SUTURE_DEBUG_DIR"), ret);
}

static void close_files(struct image *image)
{
	struct image_private *p = image_private(image);

	dwarf_end(image->dwarf);
	if (image->debug_elf != image->elf)
		elf_end(image->debug_elf);
	elf_end(image->elf);
	if (p->debug_fd >= 0)
		close(p->debug_fd);
	if (p->fd >= 0)
		close(p->fd);
	vec_free(&p->relocs);
	vec_free(&p->functions);
	free(p);
}

void image_close(struct image *image)
{
	if (!image)
		return;
	if (image->private_)
		close_files(image);
	vec_free(&image->phdrs);
	vec_free(&image->symbols);
	vec_free(&image->dynsyms);
	vec_free(&image->dynsym_versions);
	free(image->path);
	free(image->debug_path);
	free(image->name);
	free(image);
}
