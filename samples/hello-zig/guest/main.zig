//! A command for WASI preview 1 in Zig: says what its ConfigMap file and its environment tell.

const std = @import("std");

/// The file is a line or two; more than this is a mistake in the manifest.
const text_bytes_max = 4096;

pub fn main(init: std.process.Init) !void {
    const arena = init.arena.allocator();
    const io = init.io;
    const args = try init.minimal.args.toSlice(arena);
    const path = if (args.len > 1) args[1] else "/etc/greeting/text";
    const name = init.environ_map.get("POD_NAME") orelse "nobody";

    var buffer: [1024]u8 = undefined;
    var stdout: std.Io.File.Writer = .init(.stdout(), io, &buffer);
    const out = &stdout.interface;
    const text = try read(init, path);
    try out.print("{s}, says {s} in Zig\n", .{ std.mem.trim(u8, text, "\n"), name });
    try out.flush();
}

/// Zig takes the first folder it was given for the current one, whatever its name; the root is asked for by name.
fn read(init: std.process.Init, path: []const u8) ![]u8 {
    const root = init.preopens.get("/") orelse return error.NoRootFolder;
    const relative = std.mem.trimStart(u8, path, "/");
    return root.dir.readFileAlloc(init.io, relative, init.arena.allocator(), .limited(text_bytes_max));
}
