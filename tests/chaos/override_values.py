"""What is typed by mistake, or by someone who wants to see what happens."""


def _listed(text: str, separator: str | None = None) -> list[str]:
    """Return the parts of a text, by default its words."""
    return [part for line in text.strip().splitlines() for part in line.removeprefix("    ").split(separator)]


OF_TYPES: dict[type, list[str]] = {
    bool: ["true", "false"],
    int: ["1", "2", "3", "7", "100"],
    float: ["0.5", "2.5", "1e-3", "0.1"],
    str: ["abc", "'5'", "relu", "'true'", "mean", "a/b"],
    list: ["[]", "[1,2]", "[0.5]", "[a]", "[[1]]", "[null]"],
    dict: ["{}", "{a:1}", "{_target_:src.models.mlp.MLP}"],
    type(None): ["null"],
}

EDGES = _listed("""
    -1 0 1 2 -0 +1 -0.0 0.0 1.0 0.9999999999999999 1.0000000000000002 -1e-9 007 1_0 99999 10000001 1000000001
    2147483647 2147483648 4294967295 4294967296 9223372036854775807 9223372036854775808 18446744073709551616
    -9223372036854775809 1000000000000000000000 1e-320 1e18 1e19 1e21 1e308 1e309 -1e309 inf -inf nan .inf
    [0] [-1] [1000000000000000000000] [nan] [1,2,3,4,5,6,7,8] [99999999999] [1.5,0.5]
""")
EDGES.append("1" + 400 * "0")

MALFORMED = _listed(
    """
    {key}=[1,2|{key}=1,2]|{key}={{a:1|{key}={{a}}|{key}='abc|{key}="abc|{key}=)|{key}=(1)|{key}==3|={value}|{key}|{key}:3
    {key}=$|{key}=${{|{key}=${{nothing}}|{key}=${{{key}}}|{key}=${{oc.env:NO_SUCH_VARIABLE}}|{key}=${{no_resolver:1}}
    {key}=${{..{key}}}|{key}=\\|{key}=a b|{key}=range(3)|{key}=choice(1,2)|{key}=glob(*)|{key}=int(x)|{key}=float(x)
    {key}=1,2|{key}=,|{key}=interval(0,1)|{key}=sort(3)|{key}=!!python/object:os.system|{key}=a:b|{key}=#|{key}=[,]
    {key}=extend_list(3)|{key}=1;2|{key}=`x`|{key}=%s|{key}=*|{key}=&a|{key}=???|{key}=?|{key}.={value}|.{key}={value}
    {key}..x={value}|{key}@x={value}|{key}[0]={value}|{key}.a.b={value}|{key} = {value}| {key}={value}|{key}= {value}
    {key}={value}{value}|{key}='{value}'|{key}=[[[[[1]]]]]|--{key}={value}|--no-such-flag|-{key}
    """,
    "|",
)

TEXTS = ["a\nb", "\n", "a\x00b", "\x1b[31mred", "a\rb", "a\u2028b", "a\x85b", "\udcff", "\t", " ", "   "]
TEXTS += ["'", '"', "a'b", "a" * 300, "a" * 5000, *_listed(".. . / ~ con nul - -- -m a=b a,b %n {} ü 模型 🙂 ﬁ")]

PATHS = ["", " ", "a b", "a\nb", "a\x00b", "\udcff", "\x1b[31m", "a\u2028b", "a" * 300, "a/" + "b" * 300]
PATHS += ["/".join(["a" * 200] * 30), "'", '"', "a'b", "\\"]
PATHS += _listed("""
    . .. ../.. ./ a/../.. a//b 5 0 null true nan 1.5 [a] {a:1} {} no/such file file/x con - -m ~ ~no_such_user $HOME
    /dev/null /dev/null/x /proc/x /proc/self/mem ${name} ${paths} a,b a=b a:b a|b a;b * ? %s ü 🙂
""")

TARGETS = _listed("""
    5 null '' [a] {a:1} true abc ... .a ü.ü no.such.Class src. src.models.mlp src.models.mlp.Nothing src.models.mlp.MLP
    src.models.mlp.MLPNet src.models.mlp.MLP.forward src.models.cnn.CNN src.models.base.SupervisedModule
    src.cli.main.start src.data.toy.XOR
    src.data.toy.draw_uniform src.data.base.TensorDataModule src.callbacks.figures.learning_curves.Curves
    __main__.x os os.system builtins.print builtins.int builtins.exec torch.load torch.Tensor torch.optim.Adam
    torch.optim.Optimizer torch.optim.lr_scheduler.StepLR lightning.Trainer lightning.Callback lightning.LightningModule
    lightning.pytorch.loggers.CSVLogger
""")

# What Lightning, torch and Hydra take besides, and what they get from us.
ADDED = _listed("""
    trainer.fast_dev_run trainer.min_epochs trainer.min_steps trainer.max_time trainer.val_check_interval trainer.logger
    trainer.callbacks trainer.plugins trainer.deterministic trainer.benchmark trainer.enable_checkpointing
    trainer.enable_progress_bar trainer.enable_model_summary trainer.barebones trainer.num_sanity_val_steps
    trainer.use_distributed_sampler trainer.default_root_dir trainer.num_nodes trainer.gradient_clip_algorithm
    trainer.inference_mode trainer.detect_anomaly trainer.sync_batchnorm trainer.reload_dataloaders_every_n_epochs
    trainer.limit_predict_batches trainer.model_registry optimizer.eps optimizer.amsgrad optimizer.maximize
    optimizer.foreach optimizer.capturable optimizer.differentiable optimizer.params optimizer.decoupled_weight_decay
    optimizer.nonsense model.in_shape model.num_classes model.task model.optimizer model.nonsense model._partial_
    model._args_ model._recursive_ model._convert_ data._partial_ data._args_ data.nonsense scheduler.interval
    scheduler._target_ scheduler.nonsense logger.x logger.tensorboard callbacks.x callbacks.x._target_ recipe.nonsense
    recipe.sgd.momentum recipe.sgd recipe.max_epochs recipe.check_val_every_n_epoch recipe.picture_every_n_epochs
    paths.nonsense nonsense a.b.c hydra.nonsense
""")

OF_HYDRA = _listed("""
    hydra.run.dir hydra.sweep.dir hydra.sweep.subdir hydra.output_subdir hydra.verbose hydra.job.name hydra.job.chdir
    hydra.callbacks hydra.callbacks.claim_folder hydra.callbacks.claim_folder._target_ hydra.searchpath hydra.help
    hydra.job_logging hydra.job_logging.version hydra.job_logging.root hydra.job_logging.root.level
    hydra.job_logging.root.handlers hydra.job_logging.handlers.file.filename hydra.job_logging.handlers.console.class
    hydra.job_logging.formatters.short.format hydra.hydra_logging hydra.launcher hydra.sweeper hydra.runtime.cwd
    hydra.job.env_set hydra/job_logging hydra/hydra_logging hydra/launcher hydra/sweeper hydra/help hydra/output
""")
